/** A message with its headers, its text, and the names of what is attached. */
import PostalMime, { type Address } from "postal-mime";
import { UnreadableDocument } from "../unreadable.ts";
import { type Extracted, Warnings } from "./extracted.ts";
import { Flow } from "./flow.ts";
import { writeHtml } from "./html.ts";

/** Messages inside of messages at most. */
const MAX_NESTING = 50;

const shown = (addresses: readonly Address[] | undefined) =>
  (addresses ?? [])
    .flatMap((one) => one.group ?? [one])
    .map(({ name, address }) => (name && address ? `${name} <${address}>` : name || address || ""))
    .filter((one) => one !== "")
    .join(", ");

/** @throws UnreadableDocument */
export async function readEml(bytes: Uint8Array): Promise<Extracted> {
  const email = await PostalMime.parse(bytes, { maxNestingDepth: MAX_NESTING }).catch((cause: unknown) => {
    throw new UnreadableDocument("the message is damaged and cannot be read", { cause });
  });
  if (!email.from && !email.subject && !email.date && !email.to)
    throw new UnreadableDocument("the file says it is a message and is not one");
  const flow = new Flow();
  const warnings = new Warnings();
  if (email.subject) flow.openSection(email.subject);
  for (const [name, value] of [
    ["Subject", email.subject],
    ["From", shown(email.from === undefined ? [] : [email.from])],
    ["To", shown(email.to)],
    ["Cc", shown(email.cc)],
    ["Date", email.date],
  ] as const) {
    if (!value) continue;
    flow.line();
    flow.text(`${name}: ${value}`);
    flow.line();
  }
  flow.paragraph();
  // The plain version is the sender's own, where it says anything.
  if (email.text?.trim()) flow.verbatim(email.text.trim());
  else if (email.html) writeHtml(email.html, flow);
  flow.paragraph();
  const attached = email.attachments.filter(({ mimeType, related }) => !(related && mimeType.startsWith("image/")));
  if (attached.length > 0) {
    const names = attached.map(({ filename, mimeType }) => filename || mimeType);
    flow.text(`Attachments: ${names.join(", ")}`);
    warnings.add(`attachments are named and not read (${attached.length}); upload them as documents of their own`);
  }
  return { ...flow.done(), warnings: warnings.list };
}
