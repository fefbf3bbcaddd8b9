import { AppError } from "../errors.ts";

/** The refusal of the database to take a rule away: -1, since a key above has set it; -2, since the caller has less than every right. */
export const notDropped = (answer: number, setAbove: string): AppError =>
  new AppError(
    "forbidden",
    answer === -1
      ? setAbove
      : "this needs a management key with content and the verbs memory:read, memory:write and memory:forget",
  );
