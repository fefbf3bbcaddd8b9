import { invalid } from "../errors.ts";
import { stringifyJson } from "../exact-json.ts";

/** Fields that an item is found by. */
export const MOST_INDEXED = 16;
/** Characters that they may have together. */
const MOST_SAID = 70_000;

const NAME = "[^.[\\]{}*$\\s][^.[\\]{}*]{0,127}";
const PLACE = "\\[(?:\\*|-?\\d{1,4})\\]";
/** A field as `owner.name`, one of a list as `tags[0]` or `tags[-1]`, all of a list as `tags[*]`; `$`: all of the value. */
export const INDEXED_FIELD = new RegExp(`^(?:\\$|${NAME}(?:${PLACE})*(?:\\.${NAME}(?:${PLACE})*){0,7})$`, "u");

/**
 * What an item says to recall: its key, and of its value what is at these fields, a line each.
 *
 * @param indexed null: it is not recalled
 * @returns undefined where there is nothing to find it by
 * @throws AppError 400 where that is too much
 */
export function textOfItem(key: string, value: unknown, indexed: readonly string[] | null): string | undefined {
  const said: string[] = [];
  let length = key.length;
  for (const field of indexed ?? [])
    for (const part of partsAt(value, field)) {
      const text = typeof part === "string" ? part : stringifyJson(part);
      length += text.length + 1;
      if (length > MOST_SAID)
        throw invalid(`index: what ${JSON.stringify(key)} is found by is over ${MOST_SAID} characters`);
      if (text.trim() !== "") said.push(text);
    }
  return said.length === 0 ? undefined : `${key}: ${said.join("\n")}`;
}

function partsAt(value: unknown, field: string): unknown[] {
  if (field === "$") return isSaid(value) ? [value] : [];
  let parts = [value];
  for (const step of field.match(/[^.[\]]+/g) ?? [])
    parts = parts.flatMap((part) => {
      if (!Array.isArray(part)) return isObject(part) && Object.hasOwn(part, step) ? [part[step]] : [];
      if (step === "*") return part;
      return /^-?\d+$/.test(step) ? part.slice(Number(step), Number(step) + 1 || undefined) : [];
    });
  return parts.filter(isSaid);
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;
const isSaid = (value: unknown) => value !== null && value !== undefined;
