import { invalid } from "../errors.ts";
import { spellValue } from "../exact-json.ts";

/** Fields that an item is found by. */
export const MOST_INDEXED = 16;
/** Characters that the items of one request are found by. */
const MOST_SAID = 4_000_000;
/** Characters that one item is found by. */
const MOST_SAID_OF_ONE = 70_000;
/** Parts of values that one request looks at. */
const MOST_VISITED = 1_000_000;

export const MOST_FIELD_CHARACTERS = 256;
const NAME = "[^.[\\]{}*$\\s][^.[\\]{}*]{0,127}";
const PLACES = "(?:\\[(?:\\*|-?\\d{1,4})\\]){0,4}";
/** A field as `owner.name`, one of a list as `tags[0]` or `tags[-1]`, all of a list as `tags[*]`; `$`: all of the value. */
export const INDEXED_FIELD = new RegExp(`^(?:\\$|${NAME}${PLACES}(?:\\.${NAME}${PLACES}){0,7})$`, "u");

/** What items say to recall, within what one request may make of them. */
export class ItemTexts {
  #said = 0;
  #visited = 0;

  /**
   * An item's key, and of its value what is at these fields, a line each.
   *
   * @param indexed null: it is not recalled
   * @returns undefined where there is nothing to find it by
   * @throws AppError 400 where that is too much
   */
  of(key: string, value: unknown, indexed: readonly string[] | null): string | undefined {
    const said: string[] = [];
    let length = key.length;
    for (const field of indexed ?? [])
      for (const part of this.#partsAt(value, field)) {
        const text = spellValue(part);
        length += text.length + 1;
        this.#said += text.length + 1;
        if (length > MOST_SAID_OF_ONE || this.#said > MOST_SAID)
          throw invalid(
            `index: an item is found by ${MOST_SAID_OF_ONE} characters at most, and those of a request by ${MOST_SAID}; name fewer fields`,
          );
        if (text.trim() !== "") said.push(text);
      }
    return said.length === 0 ? undefined : `${key}: ${said.join("\n")}`;
  }

  #partsAt(value: unknown, field: string): unknown[] {
    let parts = [value];
    for (const step of field === "$" ? [] : (field.match(/[^.[\]]+/g) ?? [])) {
      const next: unknown[] = [];
      for (const part of parts) {
        this.#visited += step === "*" && Array.isArray(part) ? part.length : 1;
        if (this.#visited > MOST_VISITED)
          throw invalid(`index: the fields have over ${MOST_VISITED} parts in this request; name fewer fields`);
        take(part, step, next);
      }
      parts = next;
    }
    return parts.filter((part) => part !== null && part !== undefined);
  }
}

/** What stands in a part at a step, which is a name, a place, or `*` for all places. */
function take(part: unknown, step: string, into: unknown[]): void {
  if (!Array.isArray(part)) {
    if (typeof part === "object" && part !== null && Object.hasOwn(part, step))
      into.push((part as Record<string, unknown>)[step]);
  } else if (step === "*") for (const one of part) into.push(one);
  else if (/^-?\d+$/.test(step)) into.push(part.at(Number(step)));
}
