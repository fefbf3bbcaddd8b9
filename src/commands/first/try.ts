import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

const USAGE = `usage: scopefloor try [--keep]

Makes two tenants, remembers, uploads and recalls as the one, shows that the other sees nothing of it, and removes
both. Each step is a line that can be run by itself.

SCOPEFLOOR_URL       where the service is (http://127.0.0.1:7700)
SCOPEFLOOR_KEY       a management key; unset: the one in SCOPEFLOOR_DATA_DIR (./data)
SCOPEFLOOR_CONTEXT   the Context's id (default)
--keep               leaves the two tenants there, and prints their keys`;

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** A request in the words of a shell, with the key by the name of its variable. */
interface Step {
  readonly say: string;
  readonly key: "SCOPEFLOOR_KEY" | "ACME" | "GLOBEX";
  readonly method?: "GET" | "POST" | "PUT" | "DELETE";
  readonly path: string;
  readonly body?: object;
  /** A text file to upload. */
  readonly file?: { readonly name: string; readonly text: string };
  readonly expect?: number;
}

/** Shows a newcomer what the service is for, on the service itself. Gives 1 where it did otherwise than it should. */
export async function tryService(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: { keep: { type: "boolean", default: false }, help: { type: "boolean", short: "h", default: false } },
  });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  return new Trial(await placeOf(environment)).run(values.keep);
}

interface Place {
  readonly url: string;
  readonly context: string;
  readonly key: string;
  /** How a shell gets the key. */
  readonly keyInWords: string;
}

async function placeOf(environment: NodeJS.ProcessEnv): Promise<Place> {
  const {
    SCOPEFLOOR_URL: given = "http://127.0.0.1:7700",
    SCOPEFLOOR_CONTEXT: context = "default",
    SCOPEFLOOR_KEY: key = "",
    SCOPEFLOOR_DATA_DIR: folder = "./data",
  } = environment;
  const url = `${given.replace(/\/+$/, "").replace(/\/api\/v1$/, "")}/api/v1`;
  if (key !== "") return { url, context, key, keyInWords: "…" };
  const file = `${folder}/management.key`;
  const read = await readFile(file, "utf8").catch(() => {
    throw new Error(
      `there is no management key: set SCOPEFLOOR_KEY, or run this where ${file} is (start the service first)`,
    );
  });
  return { url, context, key: read.trim(), keyInWords: `$(cat ${file})` };
}

class Trial {
  readonly #place: Place;
  readonly #keys: Record<Step["key"], string>;
  #failed = 0;

  constructor(place: Place) {
    this.#place = place;
    this.#keys = { SCOPEFLOOR_KEY: place.key, ACME: "", GLOBEX: "" };
  }

  async run(keeps: boolean): Promise<number> {
    const { context, url, keyInWords } = this.#place;
    const at = `/${context}`;
    // Not those of anybody who is there.
    const mark = Date.now().toString(36);
    const [acme, globex] = [`try-acme-${mark}`, `try-globex-${mark}`];
    print(`URL=${url}\nSCOPEFLOOR_KEY=${keyInWords}\n`);
    for (const [name, org] of [
      ["ACME", acme],
      ["GLOBEX", globex],
    ] as const) {
      const { body } = await this.#step({
        say: `A tenant is one call. This one is ${org}; its key comes back once.`,
        key: "SCOPEFLOOR_KEY",
        path: `/contexts/${context}/tenants`,
        body: { scope: { org }, keys: [{ name: org, principal: "agent" }] },
        expect: 201,
      });
      const [made] = (body.keys ?? []) as { key: string }[];
      this.#keys[name] = made?.key ?? "";
      print(`  ${name}=${keeps ? this.#keys[name] : `${this.#keys[name].slice(0, 12)}…`}\n`);
    }
    await this.#step({
      say: "Acme remembers something.",
      key: "ACME",
      path: `${at}/facts`,
      body: { text: "Acme ships on Fridays, by zeppelin." },
    });
    const uploaded = await this.#step({
      say: "And uploads a file.",
      key: "ACME",
      path: `${at}/documents`,
      file: {
        name: "handbook.md",
        text: "# Returns\n\nA parcel that comes back within thirty days is refunded in full.\n",
      },
      expect: 202,
    });
    const document = `${at}/documents/${String(uploaded.body.id)}`;
    const read = await this.#until(document, "ACME", ({ body }) => body.status === "ready" || body.status === "failed");
    if (read?.body.status === "failed") this.#fail(String(read.body.error));
    else if (read !== undefined) print("  ready\n");
    await this.#recall("Acme asks.", "ACME", `${at}/query`, "when do we ship?", "zeppelin", true);
    await this.#recall("The file is found too.", "ACME", `${at}/query`, "are parcels refunded?", "thirty days", true);
    await this.#recall(
      "Globex asks the same, and finds nothing.",
      "GLOBEX",
      `${at}/query`,
      "when do we ship?",
      "zeppelin",
      false,
    );
    await this.#step({
      say: "Globex names Acme's place: refused, and recorded.",
      key: "GLOBEX",
      path: `${at}/query`,
      body: { query: "ship", lens: `org/${acme}` },
      expect: 403,
    });
    if (keeps) print("Both tenants stay. Remove one with: scopefloor tenant offboard --help\n");
    else
      for (const org of [acme, globex]) {
        await this.#step({
          say: `${org} leaves: its keys end, and all that it had is erased, with a receipt.`,
          key: "SCOPEFLOOR_KEY",
          path: `/contexts/${context}/tenants/offboard`,
          body: { scope: { org }, confirm: `org/${org}`, graceSeconds: 0 },
          expect: 202,
        });
        await this.#until(
          `/contexts/${context}/tenants/org%2F${org}`,
          "SCOPEFLOOR_KEY",
          ({ status }) => status === 404,
        );
        print("  gone\n");
      }
    print(
      this.#failed === 0
        ? "All of it went as it should.\n"
        : `${this.#failed} steps went otherwise than they should.\n`,
    );
    return this.#failed === 0 ? 0 : 1;
  }

  async #recall(
    say: string,
    key: Step["key"],
    path: string,
    query: string,
    word: string,
    isFound: boolean,
  ): Promise<void> {
    const { body } = await this.#step({ say, key, path, body: { query } });
    const texts = ((body.hits ?? []) as { text: string }[]).map(({ text }) => text);
    print(texts.length === 0 ? "  nothing\n" : `${texts.map((text) => `  ${JSON.stringify(text)}`).join("\n")}\n`);
    if (texts.some((text) => text.includes(word)) !== isFound)
      this.#fail(isFound ? "it was not found" : "it was found");
  }

  /** Asks until it is so: the worker is at it meanwhile. */
  async #until(path: string, key: Step["key"], isSo: (answer: Answer) => boolean): Promise<Answer | undefined> {
    for (let tries = 0; tries < 240; tries++) {
      const answer = await this.#send({ say: "", key, method: "GET", path });
      if (isSo(answer)) return answer;
      await pause(250);
    }
    this.#fail("it was not done within a minute: is a worker running?");
    return undefined;
  }

  async #step(step: Step): Promise<Answer> {
    print(`# ${step.say}\n${inWords(step)}\n`);
    const answer = await this.#send(step);
    const { expect = 200 } = step;
    const said = typeof answer.body.detail === "string" ? ` ${answer.body.detail}` : "";
    print(`  ${answer.status}${said}\n`);
    if (answer.status === 401 || (answer.status === 403 && step.key === "SCOPEFLOOR_KEY"))
      throw new Error(
        `${step.key} opens nothing here: set SCOPEFLOOR_KEY to a management key of this service (the first one is in its data folder, management.key)`,
      );
    if (answer.status !== expect) this.#fail(`it should be ${expect}`);
    return answer;
  }

  #fail(what: string): void {
    this.#failed++;
    print(`  FAILED: ${what}\n`);
  }

  async #send({ key, method = "POST", path, body, file }: Step): Promise<Answer> {
    const { url } = this.#place;
    const form = new FormData();
    if (file !== undefined) form.append("file", new Blob([file.text]), file.name);
    const sent = file !== undefined ? { body: form } : body === undefined ? {} : { body: JSON.stringify(body) };
    const response = await fetch(`${url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.#keys[key]}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...sent,
      signal: AbortSignal.timeout(60_000),
    }).catch((cause: unknown) => {
      throw new Error(`no answer from ${url}: start the service (npm start), or set SCOPEFLOOR_URL`, { cause });
    });
    const text = await response.text();
    const isJson = (response.headers.get("content-type") ?? "").includes("json");
    return { status: response.status, body: isJson && text !== "" ? (JSON.parse(text) as Answer["body"]) : {} };
  }
}

const print = (text: string): void => void process.stdout.write(text);

/** As a shell takes it. */
function inWords({ key, method = "POST", path, body, file }: Step): string {
  const start = `curl -s${method === "POST" ? "" : ` -X ${method}`} $URL${path} -H "Authorization: Bearer $${key}"`;
  if (file !== undefined)
    return `printf '${file.text.replaceAll("\n", "\\n")}' | ${start} -F 'file=@-;filename=${file.name}'`;
  return body === undefined ? start : `${start} -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`;
}
