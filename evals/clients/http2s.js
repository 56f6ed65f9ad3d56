// Asks for what a list says over HTTP/2, one after the other on one connection inside TLS.
//
// A line of the list is `ID METHOD PATH BODY_SIZE`. Of each request it prints the id and how many
// nanoseconds it took.

const fs = require('node:fs');
const http2 = require('node:http2');

const lines = fs.readFileSync(process.argv[3], 'utf8').trimEnd().split('\n');
const session = http2.connect(`https://${process.argv[2]}`, { rejectUnauthorized: false });

function ask(line) {
    const [id, method, path, size] = line.split(' ');
    const body = method === 'POST' ? 'u'.repeat(Number(size)) : undefined;
    const headers = { ':method': method, ':path': path, 'x-request-id': id };
    if (body !== undefined) headers['content-length'] = body.length;
    return new Promise((resolve, reject) => {
        const began = process.hrtime.bigint();
        const stream = session.request(headers, { endStream: body === undefined });
        stream.on('response', (answer) => {
            if (answer['x-request-id'] !== id) reject(new Error(`${line} was answered otherwise`));
        });
        stream.on('end', () => resolve(`${id} ${process.hrtime.bigint() - began}`));
        stream.on('error', reject).resume();
        if (body !== undefined) stream.end(body);
    });
}

(async () => {
    const took = [];
    for (const line of lines) took.push(await ask(line));
    console.log(took.join('\n'));
    session.close();
})();
