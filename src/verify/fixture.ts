import type { Answer, Caller } from "./caller.ts";

/** What every probe has to work with. */
export interface Fixture {
  readonly attacker: Caller;
  readonly victim: Caller;
  /** With a key that was never minted. */
  readonly stranger: Caller;
  readonly victimTags: Record<string, string>;
  readonly attackerTags: Record<string, string>;
  /** Words that only the victim's rows hold, until the attacker uploads the file that one is in. */
  readonly canaries: readonly string[];
  readonly ids: Readonly<Record<"session" | "document" | "trace", string>>;
  readonly itemKey: string;
  readonly uploaded: () => FormData;
  /** Mints a key below the attacker's floor, which goes away with the rest. */
  mint(tags: Record<string, string>): Promise<Caller>;
  revoke(caller: Caller): Promise<void>;
  readonly context: string;
}

export interface Probe {
  readonly name: string;
  readonly threats: readonly number[];
  /** What is wrong; nothing: the attack has failed, as it should. */
  run(fixture: Fixture): Promise<string[]>;
}

export const UNKNOWN_ID = "01900000-0000-7000-8000-000000000000";

export const path = (tags: Record<string, string>) => Object.entries(tags).flat().join("/");

/** Which of the victim's words an answer shows. */
export const leakedCanaries = ({ canaries }: Fixture, what: string, { text }: Answer) =>
  canaries.filter((canary) => text.includes(canary)).map((canary) => `${what} shows ${canary}`);

export const expectStatus = (what: string, answer: Answer, ...statuses: number[]) =>
  statuses.includes(answer.status) ? [] : [`${what} answered ${answer.status} and not ${statuses.join(" or ")}`];

/** The same answer but for what names the request itself. */
export const withoutIds = ({ status, text }: Answer, id: string) =>
  `${status} ${text.replaceAll(id, "<id>").replace(/"(requestId|instance)":"[^"]*"/g, "")}`;

export interface FixtureDeps {
  readonly mint: (tags: Record<string, string>) => Promise<Caller>;
  readonly revoke: (caller: Caller) => Promise<void>;
  readonly stranger: Caller;
  readonly mark: string;
  readonly context: string;
  readonly made: readonly { readonly tags: Record<string, string> }[];
}

/** Two tenants by a dimension of their own, which no floor has; one of them stores a secret in every way there is. */
export async function createProbeFixture({
  mint,
  revoke,
  stranger,
  mark,
  context,
  made,
}: FixtureDeps): Promise<Fixture> {
  const words = Array.from({ length: 5 }, (_, i) => `canary${mark}${"vwxyz"[i]}`);
  const [turn, document, item, fact, batch] = words as [string, string, string, string, string];
  const victim = await mint({ verify: `${mark}-a` });
  const attacker = await mint({ verify: `${mark}-b` });
  const uploaded = () => {
    const form = new FormData();
    form.append("metadata", JSON.stringify({ title: "verify" }));
    form.append("file", new Blob([`the secret is ${document}`], { type: "text/plain" }), "verify.txt");
    return form;
  };
  const stored = await victim.call("POST", "/facts", { text: `the secret is ${turn}` });
  const upload = await victim.call("POST", "/documents", uploaded());
  const others = await Promise.all([
    victim.call("PUT", `/memory/verify-${mark}`, { value: `the secret is ${item}` }),
    victim.call("POST", "/facts", {
      infer: "triples",
      triples: [{ entity: { type: "Secret", name: "secret" }, key: "is", value: fact }],
    }),
    victim.call("POST", "/facts/batch", { messages: [{ role: "user", content: `the secret is ${batch}` }] }),
  ]);
  const asked = await victim.call("POST", "/query", { query: `secret ${turn}`, k: 50 });
  const failed = [stored, upload, ...others, asked].find(({ status }) => status >= 300);
  if (failed !== undefined) throw new Error(`the probes' data could not be stored: ${failed.text}`);
  return {
    attacker,
    victim,
    stranger,
    victimTags: made[0]?.tags ?? {},
    attackerTags: made[1]?.tags ?? {},
    canaries: words,
    ids: {
      session: stored.body.sessionId as string,
      document: upload.body.id as string,
      trace: (asked.body.trace as { traceId: string }).traceId,
    },
    itemKey: `verify-${mark}`,
    uploaded,
    mint,
    revoke,
    context,
  };
}
