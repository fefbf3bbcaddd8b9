/** Small parts of a DOCX document. */
import dingbatToUnicode from "dingbat-to-unicode";
import { nodesOf, type XmlNode } from "./xml.ts";

/** Rows and cells may stand in content controls. */
const unwrapped = (name: string) =>
  function find(parent: XmlNode): XmlNode[] {
    return nodesOf(parent).flatMap((node) =>
      node.name === name ? [node] : ["sdt", "sdtContent", "customXml", "ins"].includes(node.name) ? find(node) : [],
    );
  };
export const rowsIn = unwrapped("tr");
export const cellsIn = unwrapped("tc");

/** A character of a font of pictures. */
export function symbol({ attributes: { font = "", char = "" } }: XmlNode): string {
  const code = Number.parseInt(char, 16);
  if (Number.isNaN(code)) return "";
  const known = dingbatToUnicode.codePoint(font, code) ?? dingbatToUnicode.codePoint(font, code & 0xff);
  if (known !== undefined) return known.string;
  // The private area says nothing without its font.
  return code >= 0xf000 && code <= 0xf0ff ? "" : String.fromCodePoint(code);
}
