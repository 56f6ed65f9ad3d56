// Drives the page in a real browser and says, sentence by sentence, what holds.
//
//   node page.mjs URL [--shots DIR] [--chromium PATH]
//
// The server behind URL has seen requests of at least one service within the last 15 minutes.
// playwright-core is taken from the folder that the script is run in. Exit status 1 if anything fails.

import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.cwd(), "anything.js"));
const { chromium } = require("playwright-core");

const [url, ...options] = process.argv.slice(2);
if (!url) {
  console.error("usage: node page.mjs URL [--shots DIR] [--chromium PATH]");
  process.exit(2);
}
const option = (name, otherwise) => (options.includes(name) ? options[options.indexOf(name) + 1] : otherwise);
const shots = option("--shots", null);
const WAIT = 15_000;

const browser = await chromium.launch({
  executablePath: option("--chromium", "/usr/bin/chromium"),
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

let failures = 0;
async function check(sentence, test) {
  try {
    const wrong = await test();
    if (wrong) throw new Error(wrong);
    console.log(`pass: ${sentence}`);
  } catch (error) {
    failures += 1;
    console.log(`FAIL: ${sentence}: ${String(error.message).split("\n")[0]}`);
  }
}

const origin = new URL(url).origin;
const complaints = [];
const strangers = [];

async function open(settings) {
  const page = await browser.newPage(settings);
  page.setDefaultTimeout(WAIT);
  // A refused script is a status of 400 that the test provokes; the browser mentions it.
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !/status of 400/.test(message.text())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    const target = new URL(request.url());
    if (!["data:", "blob:"].includes(target.protocol) && target.origin !== origin) strangers.push(request.url());
  });
  return page;
}

const shoot = async (page, name) => {
  if (shots) await page.screenshot({ path: path.join(shots, `${name}.png`) });
};

const page = await open({ viewport: { width: 1360, height: 900 }, colorScheme: "light", acceptDownloads: true });
await check("the page loads and says its name", async () => {
  const response = await page.goto(`${url}/`);
  if (!response.ok()) return `status ${response.status()}`;
  if (!/script-src 'self'/.test(response.headers()["content-security-policy"] ?? "")) return "no strict content security policy";
  await page.waitForSelector("h1");
  if ((await page.title()) !== "Undine") return `the title is ${await page.title()}`;
});
await check("the throughput chart draws a line for a service", async () => {
  const chart = page.locator(".chart svg").first();
  await chart.locator("path.series").first().waitFor({ state: "attached" });
  const d = await chart.locator("path.series").first().getAttribute("d");
  if (!/^M[\d.]+ [\d.]+L/.test(d)) return `the path is ${d.slice(0, 40)}`;
  const label = await chart.getAttribute("aria-label");
  if (!/latest: \S+ /.test(label)) return `the label is ${label}`;
});
await check("the charts have axes with numbers and times", async () => {
  const axis = page.locator(".chart").nth(2).locator("text.axis");
  await axis.first().waitFor({ state: "attached" });
  const texts = await axis.allTextContents();
  if (!texts.some((text) => /(ns|µs|ms|s)$/.test(text))) return `no unit among ${texts}`;
  if (!texts.some((text) => /^\d\d:\d\d/.test(text))) return `no time among ${texts}`;
});
await check("pointing at a chart shows the values of that moment", async () => {
  const chart = page.locator(".chart svg").first();
  const box = await chart.boundingBox();
  await page.mouse.move(box.x + box.width * 0.9, box.y + box.height / 2);
  await page.locator(".chart .tip:not([hidden])").waitFor();
  const tip = await page.locator(".chart .tip:not([hidden])").innerText();
  if (!/\d\d:\d\d:\d\d/.test(tip)) return `the tip says ${tip}`;
});
await check("the table lists services and sorts them", async () => {
  const names = () => page.locator("[aria-label=Services] tbody td:first-child").allInnerTexts();
  await page.locator("[aria-label=Services] tbody tr").first().waitFor();
  await page.locator("th button[data-key=service]").click();
  const sorted = await names();
  if (sorted.join() !== [...sorted].sort((a, b) => (a < b ? -1 : 1)).join()) return `not sorted: ${sorted}`;
});
await check("the page keeps itself up to date", async () => {
  await page.waitForResponse((response) => response.url().includes("/api/v1/pxl:run") && response.ok(), { timeout: WAIT });
});
await shoot(page, "overview");

await check("the overview says who asks whom, since when, and what was lost of it", async () => {
  const panel = page.locator("section[aria-label='Who asks whom']");
  await panel.locator("tbody tr").first().waitFor();
  const heads = await panel.locator("thead th").allInnerTexts();
  if (heads.join() !== "Asks,Answers,Protocol,Requests,Errors,p50,p99") return `the columns are ${heads}`;
  if (!(await panel.locator("tbody tr", { hasText: "HTTP" }).count())) return "nobody asks over HTTP";
  const foot = await panel.locator("footer").innerText();
  if (!/live|summaries/.test(foot) || !/\d\d:\d\d:\d\d – /.test(foot) || !/lost/.test(foot)) return `it says ${JSON.stringify(foot)}`;
});
await check("every panel of the host has an answer or says why not, and what was lost", async () => {
  await page.locator("nav [data-page=host]").click();
  await page.waitForFunction(() => {
    const panels = [...document.querySelectorAll(".panel:not([hidden])")];
    return panels.length >= 6 && panels.every((panel) => /lost|losses/.test(panel.querySelector("footer").textContent));
  }, undefined, { timeout: 2 * WAIT });
  const refused = await page.locator(".panel .offline").allInnerTexts();
  if (refused.length) return refused.join();
  const mute = await page.evaluate(() => [...document.querySelectorAll(".panel:not([hidden])")].filter((panel) => !panel.querySelector("tbody tr, .empty")).map((panel) => panel.getAttribute("aria-label")));
  if (mute.length) return `nothing in ${mute}`;
});
await check("a panel's script opens in the editor and runs", async () => {
  await page.getByRole("button", { name: "Processes as PxL" }).click();
  await page.locator("textarea").waitFor();
  const text = await page.locator("textarea").inputValue();
  if (!text.includes("px.DataFrame('process_stats', start_time='-5m')")) return `the editor holds ${JSON.stringify(text.slice(0, 80))}`;
  // Right after the start no process has been read twice yet.
  await page.locator("[data-result] thead th, [data-result] .empty").first().waitFor();
});
await page.locator("nav [data-page=host]").click();
await shoot(page, "host");
await check("the profile draws a flame graph that can be entered, or says that there is no sample", async () => {
  await page.locator("nav [data-page=profile]").click();
  await page.locator(".flame .frame, .flame .empty").first().waitFor();
  if (await page.locator(".flame .empty").count()) return /No sample/.test(await page.locator(".flame .empty").innerText()) ? undefined : "it is empty and does not say why";
  const share = await page.locator(".flame .frame").first().getAttribute("aria-label");
  if (!/^all: 100 %/.test(share)) return `the first frame is ${share}`;
  const inner = page.locator(".flame .frame").nth(1);
  const name = (await inner.getAttribute("aria-label")).replace(/: [^:]*$/, "");
  await inner.click();
  const now = await page.locator(".flame .frame").first().getAttribute("aria-label");
  if (!now.startsWith(name)) return `${name} was clicked, ${now} is shown`;
  await page.locator(".crumbs button").first().click();
  if (!(await page.locator("section[aria-label=Functions] tbody tr").count())) return "no functions are listed";
});
await shoot(page, "profile");

await check("the data loss indicator has an answer", async () => {
  await page.waitForFunction(() => !/unknown/.test(document.querySelector("#loss span").textContent));
});
await check("the foot says how undine is", async () => {
  await page.waitForFunction(() => /rows in memory/.test(document.querySelector("#status").textContent));
});

await check("the editor runs a script with Ctrl+Enter and shows rows", async () => {
  await page.locator("nav [data-page=query]").click();
  await page.locator("textarea").fill("import px\n\ndf = px.DataFrame('http_events', start_time='-15m')\ndf.service = df.ctx['service']\ndf = df[['time_', 'service', 'req_method', 'req_path', 'resp_status', 'latency']]\npx.display(df.head(50), 'newest')\n");
  await page.keyboard.press("Control+Enter");
  // What a panel's script answered may still be shown.
  await page.locator("[data-result] thead th", { hasText: "req_path" }).waitFor();
  await page.locator("[data-result] tbody tr").first().waitFor();
  const heads = await page.locator("[data-result] thead th").allInnerTexts();
  if (heads.join() !== "time_,service,req_method,req_path,resp_status,latency") return `the columns are ${heads}`;
  const latency = await page.locator("[data-result] tbody tr").first().locator("td").nth(5).innerText();
  if (!/^[\d.]+ (ns|µs|ms|s)$/.test(latency)) return `a latency reads ${latency}`;
});
await check("an answer says where it came from", async () => {
  const provenance = await page.locator("[data-result] .provenance").innerText();
  if (!/live|rows on disk|summaries/.test(provenance)) return `it says ${JSON.stringify(provenance)}`;
});
await check("an answer with times and numbers is drawn", async () => {
  await page.locator("[data-result] .chart svg path").first().waitFor({ state: "attached" });
});
await shoot(page, "query");
await check("a result can be downloaded as CSV with raw values", async () => {
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "CSV", exact: true }).click()]);
  if (download.suggestedFilename() !== "newest.csv") return `the file is ${download.suggestedFilename()}`;
  const stream = await download.createReadStream();
  let text = "";
  for await (const part of stream) text += part;
  if (!/^time_,service,req_method,req_path,resp_status,latency\r\n\d{19},/.test(text)) return `it starts with ${JSON.stringify(text.slice(0, 90))}`;
});
await check("a script is in the address and comes back with it", async () => {
  const address = page.url();
  if (!address.includes("#/query?script=")) return address;
  const other = await open({ viewport: { width: 1360, height: 900 } });
  await other.goto(address);
  await other.locator("textarea").waitFor();
  const text = await other.locator("textarea").inputValue();
  await other.close();
  if (!text.includes("px.display(df.head(50), 'newest')")) return `the editor holds ${JSON.stringify(text.slice(0, 60))}`;
});
await check("a mistake is drawn under its source with a caret and a remedy", async () => {
  await page.locator("textarea").fill("import px\n\ndf = px.DataFrame('http_evnts', start_time='-5m')\npx.display(df)\n");
  await page.getByRole("button", { name: /^Run/ }).click();
  await page.locator(".diagnostic").first().waitFor();
  const shown = await page.locator(".diagnostic").first().innerText();
  if (!/3 │ df = px\.DataFrame/.test(shown)) return `no source line in ${JSON.stringify(shown)}`;
  if (!/│ +\^+/.test(shown)) return `no caret in ${JSON.stringify(shown)}`;
  if (!/http_events/.test(shown)) return `no remedy in ${JSON.stringify(shown)}`;
  if (!(await page.locator(".editor .gutter .wrong").count())) return "the line is not marked";
});
await shoot(page, "mistake");
await check("Tab indents, and Escape then Tab leaves the editor", async () => {
  await page.locator("textarea").fill("");
  await page.locator("textarea").focus();
  await page.keyboard.press("Tab");
  if ((await page.locator("textarea").inputValue()) !== "    ") return "Tab did not indent";
  await page.keyboard.press("Escape");
  await page.keyboard.press("Tab");
  if (await page.evaluate(() => document.activeElement.tagName === "TEXTAREA")) return "the editor kept the focus";
});
await check("SQL runs too", async () => {
  await page.getByRole("button", { name: "SQL", exact: true }).click();
  await page.locator("textarea").fill("SELECT count(*) AS n FROM http_events");
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction(() => document.querySelector("[data-result] thead th")?.innerText === "n");
});

await check("the tables page describes every column", async () => {
  await page.locator("nav [data-page=tables]").click();
  await page.locator(".picker a").first().waitFor();
  await page.locator(".picker a", { hasText: "http_events" }).click();
  await page.waitForFunction(() => document.querySelectorAll("table.wrap tbody tr").length > 20);
});
await shoot(page, "tables");
await check("the incidents page opens", async () => {
  await page.locator("nav [data-page=incidents]").click();
  await page.locator(".incident, .empty").first().waitFor();
});
await shoot(page, "incidents");

await check("the look changes at a click and stays", async () => {
  const before = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.locator("#theme").click();
  const after = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  if (before === after) return `still ${after}`;
  await page.reload();
  await page.waitForSelector("h1");
  const kept = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  if (kept !== after) return "a reload forgot it";
});
await check("a narrow window needs no sideways scrolling", async () => {
  const narrow = await open({ viewport: { width: 390, height: 800 } });
  await narrow.goto(`${url}/`);
  await narrow.locator(".chart svg").first().waitFor({ state: "attached" });
  await narrow.locator("#loss.is-good, #loss.is-warn").waitFor();
  const wide = [];
  for (const place of ["#/", "#/host", "#/profile"]) {
    await narrow.goto(`${url}/${place}`);
    await narrow.locator(".panel footer .tag").first().waitFor();
    const [width, room] = await narrow.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    if (width > room) wide.push(`${place} is ${width} wide in ${room}`);
    await shoot(narrow, place === "#/" ? "narrow" : `narrow-${place.slice(2)}`);
  }
  await narrow.close();
  return wide.join();
});
await check("every control has a name", async () => {
  const nameless = [];
  for (const place of ["#/", "#/host", "#/profile", "#/query", "#/tables", "#/incidents"]) {
    await page.goto(`${url}/${place}`);
    await page.waitForSelector("h1");
    nameless.push(...(await page.evaluate(() => [...document.querySelectorAll("button, a, select, textarea, input")].filter((control) => !(control.textContent.trim() || control.getAttribute("aria-label") || control.title)).map((control) => control.outerHTML.slice(0, 80)))));
  }
  if (nameless.length) return nameless.join();
});
await check("nothing was asked of another host", async () => strangers.join());
await check("the console stayed silent", async () => complaints.join(" | "));

await browser.close();
console.log(failures ? `${failures} failed` : "all hold");
process.exit(failures ? 1 : 0);
