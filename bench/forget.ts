/**
 * What a forget by topic takes, over HTTP as dry runs: the requests of forget-set.ts over its facts, and
 * topics that no conversation is about over LoCoMo's (`--data=<folder>` with `locomo-dev.json`).
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ABSENT_TOPICS, FACTS, REQUESTS } from "./forget-set.ts";
import { round, table } from "./measure.ts";
import { hasOption, textOption } from "./options.ts";
import { type BenchService, benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";

interface Taken {
  readonly matches: { readonly text: string; readonly why: string }[];
}

/** Words that are in every request; two others are the same by their first five letters. */
const EMPTY = new Set(
  "the and what that you know about forget delete remove erase please all everything for with how where when said she her his our".split(
    " ",
  ),
);
const stemsOf = (text: string) =>
  new Set(
    (text.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? [])
      .filter((word) => !EMPTY.has(word))
      .map((word) => word.slice(0, 5)),
  );
const shareWord = (one: string, other: string) => [...stemsOf(one)].some((stem) => stemsOf(other).has(stem));

interface Tally {
  asked: number;
  right: number;
  wrong: number;
  missed: number;
  /** Of those that should go, and share a word with the request. */
  shared: number;
  sharedFound: number;
}

export default async function forget(): Promise<Record<string, unknown>> {
  const database = await benchDatabase();
  const temporary = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: temporary.path });
  try {
    const tallies = await facts(service);
    const rows = Object.entries(tallies);
    const sum = (of: keyof Tally) => rows.reduce((total, [, tally]) => total + tally[of], 0);
    process.stdout.write(
      table([
        ["requests", "asked", "rows right", "wrong", "missed"],
        ...rows.map(([kind, { asked, right, wrong, missed }]) => [kind, asked, right, wrong, missed]),
      ]),
    );
    const talked = await conversations(service);
    const absent = (tallies.absent?.wrong ?? 0) + talked.taken;
    const wrong = sum("wrong") + talked.taken;
    const precision = sum("right") / (sum("right") + wrong);
    const recall = sum("sharedFound") / sum("shared");
    process.stdout.write(
      `\n${table([
        ["", "measured", "aim"],
        ["precision over all", round(precision, 4), 0.97],
        [`rows for what is absent, ${(tallies.absent?.asked ?? 0) + talked.asked} requests`, absent, 0],
        ["recall where a word is shared", round(recall, 4), 0.8],
      ])}`,
    );
    return { requests: sum("asked") + talked.asked, precision: round(precision, 4), absent, recall: round(recall, 4) };
  } finally {
    await service.stop();
    await database.drop();
    await temporary.remove();
  }
}

async function remember(call: ReturnType<typeof clientOf>, texts: readonly string[]): Promise<void> {
  for (let at = 0; at < texts.length; at += 500) {
    const messages = texts.slice(at, at + 500).map((content) => ({ role: "user", content }));
    await call("POST", "/default/facts/batch", { messages });
  }
}

async function facts(service: BenchService): Promise<Record<string, Tally>> {
  const call = clientOf(service.url, await mintAgent(service, "facts", { org: "facts" }));
  await remember(call, FACTS);
  const tallies: Record<string, Tally> = {};
  for (const [kind, query, gone] of REQUESTS) {
    const tally = tallies[kind] ?? { asked: 0, right: 0, wrong: 0, missed: 0, shared: 0, sharedFound: 0 };
    tallies[kind] = tally;
    const { matches } = await call<Taken>("POST", "/default/forget", { query, dryRun: true });
    const taken = new Set(matches.map(({ text }) => text));
    const wanted = gone.map((fact) => FACTS[fact] as string);
    tally.asked++;
    tally.right += wanted.filter((text) => taken.has(text)).length;
    tally.missed += wanted.filter((text) => !taken.has(text)).length;
    tally.wrong += [...taken].filter((text) => !wanted.includes(text)).length;
    const shared = wanted.filter((text) => shareWord(text, query));
    tally.shared += shared.length;
    tally.sharedFound += shared.filter((text) => taken.has(text)).length;
    if (!hasOption("verbose")) continue;
    for (const text of taken) if (!wanted.includes(text)) process.stdout.write(`wrong   ${query}: ${text}\n`);
    for (const text of wanted) if (!taken.has(text)) process.stdout.write(`missed  ${query}: ${text}\n`);
  }
  return tallies;
}

async function conversations(service: BenchService): Promise<{ asked: number; taken: number }> {
  const file = join(textOption("data") ?? "../shared/data", "locomo-dev.json");
  const samples = JSON.parse(await readFile(file, "utf8")) as {
    conversation: Record<string, { speaker: string; text: string }[] | string>;
  }[];
  const tally = { asked: 0, taken: 0 };
  for (const [i, { conversation }] of samples.entries()) {
    const call = clientOf(service.url, await mintAgent(service, `talk ${i}`, { org: `talk${i}` }));
    const turns = Object.entries(conversation).flatMap(([name, said]) =>
      /^session_\d+$/.test(name) && Array.isArray(said) ? said.map(({ speaker, text }) => `${speaker}: ${text}`) : [],
    );
    await remember(
      call,
      turns.filter((text) => text.trim() !== ""),
    );
    for (const query of ABSENT_TOPICS) {
      const { matches } = await call<Taken>("POST", "/default/forget", { query, dryRun: true });
      tally.asked++;
      tally.taken += matches.length;
      if (hasOption("verbose"))
        for (const { text, why } of matches) process.stdout.write(`absent  ${query}: ${text} (${why})\n`);
    }
  }
  return tally;
}
