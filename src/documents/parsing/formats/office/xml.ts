/** XML as a light tree: local names, without namespaces. Entities that a file declares are not expanded. */
import { SaxesParser } from "saxes";

export interface XmlNode {
  /** Its local name. */
  readonly name: string;
  /** By name, and by local name: there of two that differ in their namespace the last. */
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: (XmlNode | string)[];
}

const local = (name: string) => name.slice(name.indexOf(":") + 1);

/** Elements around one another at most. */
const MAX_DEPTH = 2_000;

/** @throws Error where it is no XML */
export function parseXml(bytes: Uint8Array): XmlNode {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const isUtf16 = (buffer[0] === 0xff && buffer[1] === 0xfe) || (buffer[0] === 0xfe && buffer[1] === 0xff);
  const text = isUtf16
    ? new TextDecoder(buffer[0] === 0xff ? "utf-16le" : "utf-16be").decode(buffer)
    : new TextDecoder("utf-8").decode(buffer);
  const root: XmlNode = { name: "", attributes: {}, children: [] };
  const open: XmlNode[] = [root];
  const parser = new SaxesParser({ xmlns: false, position: false });
  parser.on("error", (error) => {
    throw error;
  });
  parser.on("opentag", ({ name, attributes }) => {
    if (open.length > MAX_DEPTH) throw new Error("nested too deeply");
    const own: Record<string, string> = Object.create(null);
    for (const [key, value] of Object.entries(attributes)) {
      own[key] = value;
      own[local(key)] = value;
    }
    const node: XmlNode = { name: local(name), attributes: own, children: [] };
    (open.at(-1) as XmlNode).children.push(node);
    open.push(node);
  });
  parser.on("closetag", () => {
    open.pop();
  });
  const write = (words: string) => (open.at(-1) as XmlNode).children.push(words);
  parser.on("text", write);
  parser.on("cdata", write);
  parser.write(text).close();
  return root;
}

export const isNode = (child: XmlNode | string): child is XmlNode => typeof child !== "string";
export const nodesOf = (node: XmlNode | undefined): XmlNode[] => node?.children.filter(isNode) ?? [];
export const childOf = (node: XmlNode | undefined, name: string): XmlNode | undefined =>
  node?.children.find((child): child is XmlNode => isNode(child) && child.name === name);
/** Down a path of names. */
export const within = (node: XmlNode | undefined, ...path: string[]): XmlNode | undefined =>
  path.reduce<XmlNode | undefined>(childOf, node);

/** All of a name below a node, in order. */
export function* allOf(node: XmlNode | undefined, name: string): Generator<XmlNode> {
  const open = nodesOf(node).reverse();
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (next.name === name) yield next;
    for (const node of nodesOf(next).reverse()) open.push(node);
  }
}

/** All of its words. */
export function textIn(node: XmlNode | undefined): string {
  let text = "";
  const open: (XmlNode | string)[] = node === undefined ? [] : [node];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (typeof next === "string") text += next;
    else for (let i = next.children.length - 1; i >= 0; i--) open.push(next.children[i] as XmlNode | string);
  }
  return text;
}
