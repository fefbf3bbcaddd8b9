import type { IncomingHttpHeaders } from "node:http";
import { invalid } from "../errors.ts";

/** One header under two names: clients of this API send either. */
export const DELEGATION_HEADERS = ["X-Spectron-On-Behalf-Of", "X-Memory-On-Behalf-Of"] as const;
const KNOWN: readonly string[] = DELEGATION_HEADERS.map((name) => name.toLowerCase());

/**
 * The id of the key on whose behalf a request is made, where it says so; a prefix `principal:` is left out.
 *
 * @throws AppError 400 for a header that looks as if it delegated, and would be ignored
 */
export function onBehalfOf(headers: IncomingHttpHeaders): string | undefined {
  const named = Object.entries(headers).filter(([name]) => /on[-_]behalf[-_]of$/.test(name));
  const unknown = named.find(([name]) => !KNOWN.includes(name));
  if (unknown !== undefined) throw invalid(`${unknown[0]}: delegation is said by ${DELEGATION_HEADERS.join(" or ")}`);
  const values = new Set(
    named.map(([, value]) =>
      String(value)
        .trim()
        .replace(/^principal:/, ""),
    ),
  );
  if (values.size > 1) throw invalid(`${DELEGATION_HEADERS.join(" and ")} name two principals`);
  const [id] = values;
  // Said and left empty, it would be one's own behalf.
  if (id === "") throw invalid(`${DELEGATION_HEADERS[0]} is empty: it names a key by its id`);
  return id;
}
