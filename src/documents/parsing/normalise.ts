import { normalForm } from "../../text/normal-form.ts";

/** A keyword as two documents share it: lower case, single spaces. */
export const normalise = (phrase: string) => normalForm(phrase).toLowerCase().replace(/\s+/g, " ").trim();
