import { analyserOf } from "../../context/settings.ts";
import type { ScopedTransaction } from "../../db/access/scoped.ts";
import type { SearchedWord } from "../../lexical/searched-words.ts";
import { lexicalState } from "../../lexical/state.ts";
import { WordSearch } from "../../lexical/word-search.ts";
import { fetchHits } from "../../recall/answer/hits.ts";
import { fetchPlaces } from "../../recall/ranking/bm25.ts";
import { NO_FILTER } from "../../recall/ranking/filter.ts";
import { type Analyser, type AskedWord, IN_COMPOUND } from "../../text/analysis/analyse.ts";
import { folded } from "../../text/analysis/fold.ts";
import { normalForm } from "../../text/normal-form.ts";
import type { Keep } from "./selection.ts";

/** What orders a forget, or fills it out, and names nothing by itself. */
const COMMANDS = new Set(
  `forget forgets delete deletes remove removes erase erases clear drop purge wipe clean please kindly everything anything something
  nothing all any both every each information info detail details data stuff thing things memory memories remember remembered know knows known
  knew about regarding concerning related mention mentioned said say says tell told talked talk decide decided decision
  user users person people someone
  old older new newer previous past recent latest current former last earlier outdated yesterday today
  unimportant important up out over start starting begin way long short
  vergiss vergessen lösche löschen bitte alles oublie oublier supprime supprimer efface tout olvida olvidar borra borrar elimina todo
  dimentica cancella tutto esqueça apague tudo vergeet verwijder wis alles unohda poista kaikki glöm radera allt unut sil lütfen her şeyi
  zapomnij usuń skasuj wszystko забудь удали сотри всё все пожалуйста انس احذف امسح كل شيء שכח מחק הכל भूल जाओ हटाओ मिटाओ सब
  felejts felejtsd el mindent töröld weißt weisst über sais sur sabes sobre sai su hakkında hakkindaki के बारे में जो
  忘记 忘掉 删除 清除 关于 一切 所有 全部 请 事情 的 忘れ 忘れて 削除 消し 消して して ください 下さい すべて 全て こと について つい て に の を さん
  잊어줘 잊어 삭제해 삭제 지워줘 지워 대해 에 대해서 대한 관한 모든 것 것을 ลืม ลบ ทุกอย่าง ทุก อย่าง เกี่ยวกับ เกี่ยว กับ ที่`
    .split(/\s+/)
    .map(folded),
);

/** Letters and digits with what joins them in e-mail addresses, paths, versions and numbers of things. */
const TOKEN = /[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:[._@:+#/'’-]+[\p{L}\p{N}][\p{L}\p{N}\p{M}]*)*/gu;
/** A token that is an identifier: it has a digit, or is joined like an address or a path. */
const IDENTIFIER = /\p{N}|[@_/]|\p{L}\.\p{L}/u;

const tokensOf = (text: string): string[] => normalForm(text).toLowerCase().match(TOKEN) ?? [];

/** What a request is about: words, and identifiers that count as they are alone. */
export interface Topic {
  readonly words: readonly TopicWord[];
  readonly identifiers: readonly string[];
  /** Of all of them together; 0: it is about nothing. */
  readonly weight: number;
  /** Of each identifier. */
  readonly identifierWeight: number;
  readonly analyser: Analyser;
  readonly search: WordSearch;
}

interface TopicWord extends AskedWord {
  /** Its rarity in the visible scopes, as BM25 has it; a word that is in none of them has the greatest. */
  readonly rarity: number;
  /** What a row may say of it, by the places of the search: any of these is a share of the word. */
  readonly ways: readonly { readonly places: readonly number[]; readonly share: number }[];
}

/** A row that a topic matches: the share of the topic that it says, by weight, and in which words. */
export interface TopicMatch {
  readonly id: string;
  readonly scopeId: number;
  readonly share: number;
  readonly says: readonly string[];
}

/**
 * What a looser form says of a word: alone less than any threshold that a request has by default. What a compound
 * shares with others, its beginning or a part, says still less, and so does a word inside of a compound.
 */
const NEAR_SHARE = 0.55;
const PART_SHARE = 0.15;

/** The words of a request that say what it is about, and its identifiers. */
function split(query: string): { text: string; identifiers: string[] } {
  const tokens = tokensOf(query).map((token) => token.replace(/['’]s?$/u, "").replace(/['’]s(?=$|[^\p{L}])/gu, ""));
  const identifiers = [...new Set(tokens.filter((token) => IDENTIFIER.test(token)))];
  const words = tokens.filter((token) => !IDENTIFIER.test(token) && !COMMANDS.has(token));
  return { text: words.join(" "), identifiers };
}

/** Reads a request, with the rarity of its words in the visible scopes. */
export async function topicOf(tx: ScopedTransaction, query: string): Promise<Topic> {
  const { text, identifiers } = split(query);
  const analyser = analyserOf(tx);
  const { languages } = await lexicalState(tx);
  const asked = analyser.question(text, languages, COMMANDS);
  // The pieces of identifiers count for nothing: they only find rows.
  const pieces = identifiers.length === 0 ? [] : analyser.question(identifiers.join(" "), languages);
  const searched: SearchedWord[] = [];
  const place = (word: Omit<SearchedWord, "weight">) => searched.push({ ...word, weight: 1 }) - 1;
  const placed = asked.map((word) => {
    const { variants, near, joints } = word;
    const isLoose = joints.length === 0;
    const part = (stem: string) =>
      place({
        variants: [
          [stem, 1],
          [`${IN_COMPOUND}${stem}`, 1],
        ],
      });
    const parts = joints.map((joint) => joint.map(part));
    const [whole, inside] = [true, false].map((isWhole) =>
      variants.filter(([term]) => term.startsWith(IN_COMPOUND) !== isWhole),
    );
    const ways = [
      { places: [place({ variants: whole ?? [] })], share: 1 },
      ...(inside === undefined || inside.length === 0
        ? []
        : [{ places: [place({ variants: inside })], share: PART_SHARE }]),
      ...(near.length === 0
        ? []
        : [
            {
              places: [place({ variants: near.map((term): [string, number] => [term, 1]) })],
              share: isLoose ? NEAR_SHARE : PART_SHARE,
            },
          ]),
      ...parts.flatMap((places) => [
        { places, share: 1 },
        ...places.map((one) => ({ places: [one], share: PART_SHARE })),
      ]),
    ];
    return { word, ways };
  });
  for (const { variants } of pieces) place({ variants });
  const search = await WordSearch.for(tx, searched);
  const words = placed.map(({ word, ways }) => ({
    ...word,
    ways,
    rarity: word.weight * (search.words[ways[0]?.places[0] ?? -1]?.idf ?? Math.log(1 + (search.passages + 0.5) / 0.5)),
  }));
  const identifierWeight = Math.log(1 + (search.passages - 0.5) / 1.5);
  const weight = words.reduce((sum, { rarity }) => sum + rarity, 0) + identifiers.length * identifierWeight;
  return { words, identifiers, weight, identifierWeight, analyser, search };
}

/** Whether a text has every identifier of the topic, each as it is. */
export function hasIdentifiers(text: string, { identifiers }: Topic): boolean {
  if (identifiers.length === 0) return true;
  const tokens = new Set(tokensOf(text));
  return identifiers.every((identifier) => tokens.has(identifier));
}

/** What a row says of each word, and of all of the topic by weight, where it has the identifiers. */
function shareOf(
  { words, identifiers, identifierWeight, weight }: Topic,
  has: (place: number) => boolean,
): { share: number; says: string[] } {
  if (weight === 0) return { share: 0, says: [] };
  let said = identifiers.length * identifierWeight;
  const says: string[] = [];
  for (const { ways, rarity, variants } of words) {
    const best = Math.max(0, ...ways.map(({ places, share }) => (places.every(has) ? share : 0)));
    said += rarity * best;
    if (best > 0) says.push(variants[0]?.[0] ?? "");
  }
  return { share: said / weight, says: [...says.sort(), ...identifiers] };
}

/** A little less than what is asked for: sums of doubles. */
const TOLERANCE = 1e-9;

/**
 * The passages that say at least `threshold` of a topic, the most first. That they have its identifiers
 * is looked at in their text.
 */
export async function passagesAbout(
  tx: ScopedTransaction,
  topic: Topic,
  threshold: number,
  sessionId: string | undefined,
  limit: number,
  keep: Keep,
): Promise<TopicMatch[]> {
  if (topic.weight === 0) return [];
  const places = await topic.search.select(
    (frequencies) => shareOf(topic, (place) => (frequencies[place] ?? 0) > 0).share,
    threshold - TOLERANCE,
  );
  const found: TopicMatch[] = [];
  // What another session says, or lacks an identifier, drops out: then the next ones are looked at.
  for (let from = 0; from < places.length && found.length < limit; from += limit) {
    const some = places.slice(from, from + limit);
    const passages = await fetchPlaces(tx, some, { ...NO_FILTER, sessionId });
    const texts =
      topic.identifiers.length === 0
        ? undefined
        : new Map((await fetchHits(tx, passages)).map((hit) => [hit.id, hit.text]));
    for (const { id, scopeId, frequencies } of await keep(passages)) {
      if (texts !== undefined && !hasIdentifiers(texts.get(id) ?? "", topic)) continue;
      found.push({ id, scopeId, ...shareOf(topic, (place) => (frequencies[place] ?? 0) > 0) });
    }
  }
  return found.slice(0, limit);
}

/** What a text says of a topic; undefined: less than `threshold`, or not its identifiers. */
export function shareOfText(text: string, topic: Topic, threshold: number): number | undefined {
  if (topic.weight === 0 || !hasIdentifiers(text, topic)) return undefined;
  const { terms } = topic.analyser.text(text);
  const has = (place: number) => topic.search.asked[place]?.variants.some(([term]) => terms.has(term)) === true;
  const { share } = shareOf(topic, has);
  return share >= threshold - TOLERANCE ? share : undefined;
}
