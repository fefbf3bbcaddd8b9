import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startService, type TestService } from "../harness/service.ts";

/** The page of the API in a browser: what it is filled with works at the first click. */

const CHROMIUM = "/usr/bin/chromium";

/** What somebody tries first, in turn. */
const ROUTES = [
  "post /{ctx}/facts",
  "post /{ctx}/facts/batch",
  "post /{ctx}/query",
  "post /{ctx}/context",
  "get /{ctx}/me",
  "get /{ctx}/memories",
  "put /{ctx}/memory/{key}",
  "get /{ctx}/memory/{key}",
  "get /{ctx}/profile",
  "get /{ctx}/entities",
  "get /{ctx}/documents",
  "post /{ctx}/documents/query",
  "post /{ctx}/sessions",
  "get /{ctx}/traces",
  "post /{ctx}/forget",
  "post /contexts/{ctx}/tenants",
  "get /contexts/{ctx}/usage",
];

let service: TestService;
let browser: Browser;
beforeAll(async () => {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is not there: apt-get install chromium`);
  service = await startService();
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}, 60_000);
afterAll(async () => {
  await browser?.close();
  await service?.stop();
});

/** The first click on a route as it is filled; gives what was sent and the status. */
async function firstClick(page: Page, route: string): Promise<{ asked: string; status: number; told: string }> {
  const [method = "", path = ""] = route.split(" ");
  const id = `${method}-${path.replace(/[\s#:?&={}]/g, "-")}`;
  await page.evaluate(`document.querySelector("rapi-doc").scrollToPath(${JSON.stringify(id)})`);
  const button = page.locator("button.m-btn.primary", { hasText: /^TRY$/ }).first();
  await button.waitFor();
  const [response] = await Promise.all([
    page.waitForResponse((one) => one.url().startsWith(service.url) && !one.url().endsWith(".json"), {
      timeout: 15_000,
    }),
    button.click(),
  ]);
  const told = `${response.request().postData() ?? ""} ${await response.text()}`;
  return {
    told,
    asked: `${response.request().method()} ${new URL(response.url()).pathname}`,
    status: response.status(),
  };
}

test("each main route answers well at the first click, and nothing is loaded from elsewhere", {
  tags: ["long"],
  timeout: 120_000,
}, async () => {
  const page = await browser.newPage();
  const elsewhere: string[] = [];
  const problems: string[] = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(service.url).origin) && !request.url().startsWith("data:"))
      elsewhere.push(request.url());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  await page.goto(`${service.url}/docs`);
  await page.locator("rapi-doc").waitFor();
  await page.getByText("Scopefloor").first().waitFor();
  await page.evaluate(`document.querySelector("rapi-doc").setApiKey("key", ${JSON.stringify(service.operator.key)})`);
  for (const route of ROUTES) {
    const { asked, status, told } = await firstClick(page, route);
    const path = route
      .slice(route.indexOf(" ") + 1)
      .replace("{ctx}", "default")
      .replace("{key}", "theme");
    expect([asked, status], route).toEqual([
      `${route.split(" ")[0]?.toUpperCase()} /api/v1${path}`,
      expect.any(Number),
    ]);
    expect(status, `${route} ${told}`).toBeLessThan(300);
  }
  expect([elsewhere, problems]).toEqual([[], []]);
});
