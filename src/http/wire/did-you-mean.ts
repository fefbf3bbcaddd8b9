/** Names that stand for nearly the same thing on one route or another. */
const ALIKE: readonly (readonly string[])[] = [
  ["scope", "scopes", "lens", "path"],
  ["k", "limit", "topK", "pageSize", "maxResults"],
  ["text", "content", "message", "query"],
  ["labels", "tags", "metadata"],
  ["key", "name", "id"],
];

/** The known name that an unknown one most likely means; undefined: none is near. */
export function nearestName(unknown: string, known: readonly string[]): string | undefined {
  const bare = (name: string) => name.replace(/[^\p{L}\p{N}]/gu, "").toLowerCase();
  const said = bare(unknown.slice(0, 64));
  const same = known.find((name) => bare(name) === said);
  if (same !== undefined) return same;
  const alike = ALIKE.find((group) => group.some((name) => bare(name) === said))?.find((name) => known.includes(name));
  if (alike !== undefined) return alike;
  const near = known.map((name) => ({ name, steps: stepsBetween(said, bare(name)) }));
  const [first] = near.sort((a, b) => a.steps - b.steps);
  return first !== undefined && first.steps <= Math.min(2, Math.floor(said.length / 3)) ? first.name : undefined;
}

/** Levenshtein's distance. */
function stepsBetween(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...b].entries())
      next.push(Math.min((row[j] ?? 0) + (letter === other ? 0 : 1), (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    row = next;
  }
  return row.at(-1) ?? 0;
}
