import { AppError, type ErrorSlug, notFound } from "../errors.ts";

/** What a function of src/db/sql/3_governance answers: what it did, or why it did nothing. */
export type Answer<T extends object = object> = ({ status: "ok" } & T) | { status: ErrorSlug; detail: string };

/** @throws AppError with the status and the words of a refusal */
export function accepted<T extends object>(answer: Answer<T>): T {
  if (answer.status === "ok") return answer as T;
  const { status, detail } = answer as { status: ErrorSlug; detail: string };
  throw status === "not-found" ? notFound() : new AppError(status, detail);
}
