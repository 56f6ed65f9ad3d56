// Asks for what a list says, one after the other on one connection inside TLS.
//
// A line of the list is `ID METHOD PATH BODY_SIZE`. Of each request it prints the id and how many
// nanoseconds it took.

const fs = require('node:fs');
const https = require('node:https');

const [host, port] = process.argv[2].split(':');
const lines = fs.readFileSync(process.argv[3], 'utf8').trimEnd().split('\n');
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false });

function ask(line) {
    const [id, method, path, size] = line.split(' ');
    const body = method === 'POST' ? 'u'.repeat(Number(size)) : undefined;
    const headers = { 'X-Request-Id': id };
    if (body !== undefined) headers['Content-Length'] = body.length;
    return new Promise((resolve, reject) => {
        const began = process.hrtime.bigint();
        const request = https.request({ host, port, method, path, headers, agent }, (answer) => {
            if (answer.headers['x-request-id'] !== id) reject(new Error(`${line} was answered otherwise`));
            answer.on('end', () => resolve(`${id} ${process.hrtime.bigint() - began}`)).resume();
        });
        request.on('error', reject).end(body);
    });
}

(async () => {
    const took = [];
    for (const line of lines) took.push(await ask(line));
    console.log(took.join('\n'));
    agent.destroy();
})();
