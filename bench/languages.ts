/**
 * Recall and forget in many languages, over HTTP as a client would: for each 40 questions in other forms of the words
 * than the fact that answers them, among 500 other facts (bench/languages/). `--held` takes 20 others that nothing
 * was made with.
 */
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { load, round, table } from "./measure.ts";
import { hasOption } from "./options.ts";
import { benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";

const FOLDER = fileURLToPath(new URL("./languages/", import.meta.url));

interface Question {
  readonly fact: string;
  readonly question: string;
  readonly topic: string;
}

async function readSet(language: string): Promise<{ questions: Question[]; others: string[] }> {
  const lines = async (path: string) =>
    (await readFile(`${FOLDER}${path}`, "utf8"))
      .trim()
      .split("\n")
      .map((line) => line.split("\t"));
  const all = await lines(`${language}.tsv`);
  const asked = hasOption("held") ? await lines(`held/${language}.tsv`) : all;
  return {
    questions: asked.flatMap(([kind, fact = "", question = "", topic = ""]) =>
      kind === "q" ? [{ fact, question, topic }] : [],
    ),
    others: all.flatMap(([kind, fact = ""]) => (kind === "o" ? [fact] : [])),
  };
}

export default async function languages(): Promise<Record<string, unknown>> {
  const names = (await readdir(FOLDER)).filter((name) => name.endsWith(".tsv")).map((name) => name.slice(0, 2));
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  const lines: (string | number)[][] = [["", "first place", "in the first five", "forget finds", "and takes besides"]];
  const result: Record<string, unknown> = {};
  try {
    for (const language of names.sort()) {
      const { questions, others } = await readSet(language);
      const call = clientOf(service.url, await mintAgent(service, language, { org: `language-${language}` }));
      const facts = [...questions.map(({ fact }) => fact), ...others];
      await load(facts.length, 8, async (i) => void (await call("POST", "/default/facts", { text: facts[i] })));
      const sums = { first: 0, five: 0, found: 0, besides: 0 };
      for (const { fact, question, topic } of questions) {
        const { hits } = await call<{ hits: { text: string }[] }>("POST", "/default/query", { query: question, k: 5 });
        if (hits[0]?.text === fact) sums.first++;
        if (hits.some(({ text }) => text === fact)) sums.five++;
        const { matches } = await call<{ matches: { text: string }[] }>("POST", "/default/forget", {
          query: topic,
          dryRun: true,
        });
        if (matches.some(({ text }) => text === fact)) sums.found++;
        sums.besides += matches.filter(({ text }) => text !== fact).length;
      }
      const n = questions.length;
      lines.push([language, sums.first / n, sums.five / n, sums.found / n, sums.besides]);
      result[language] = {
        first: round(sums.first / n, 3),
        forgetFinds: round(sums.found / n, 3),
        forgetTakesBesides: sums.besides,
      };
    }
    process.stdout.write(table(lines));
    process.stdout.write("\naims: first place 0.8, forget finds 0.9 and takes nothing besides\n");
    return result;
  } finally {
    await service.stop();
    await folder.remove();
    await database.drop();
  }
}
