/**
 * What the service must answer, from the rules of the scope algebra alone. Nothing of the product is
 * imported here: a mistake made there is not made here again.
 */

export type Tags = Readonly<Record<string, string>>;
export type Verb = "memory:read" | "memory:write" | "memory:forget";
export type Principal = "management" | "supervisor" | "agent";
export type View = "strict" | "subtree";

export interface Key {
  readonly id: string;
  readonly secret: string;
  readonly principal: Principal;
  readonly floor: Tags;
  readonly verbs: readonly Verb[];
  readonly parent: Key | undefined;
  revoked: boolean;
}

/** Anything stored, by a word that no other text has. */
export interface Stored {
  readonly canary: string;
  readonly kind: "turn" | "document" | "item" | "fact";
  readonly scope: Tags;
  /** The session's, document's or item's id on the wire. */
  readonly id: string;
  /** Of an item: whether recall finds it. */
  readonly isRecalled?: boolean;
}

export interface Session {
  readonly id: string;
  readonly scope: Tags;
  readonly owner: Key;
}

/** Floor and verbs that a request has: the key's own, or narrowed by another it acts on behalf of. */
export interface Caller {
  readonly key: Key;
  readonly floor: Tags;
  readonly verbs: readonly Verb[];
  readonly principals: readonly Principal[];
}

const entries = (tags: Tags) => Object.entries(tags);

/** Whether `inner` has every tag of `outer`. */
export const isWithin = (inner: Tags, outer: Tags) => entries(outer).every(([d, v]) => inner[d] === v);
export const contradicts = (a: Tags, b: Tags) => entries(a).some(([d, v]) => b[d] !== undefined && b[d] !== v);
export const isSame = (a: Tags, b: Tags) => isWithin(a, b) && isWithin(b, a);
export const isGeneral = (tags: Tags) => entries(tags).length === 0;

export class Oracle {
  readonly keys: Key[] = [];
  readonly sessions: Session[] = [];
  stored: Stored[] = [];

  live(): Key[] {
    return this.keys.filter((key) => !this.isEnded(key));
  }

  /** Revoked, or minted by an agent that is. */
  isEnded(key: Key): boolean {
    return key.revoked || (key.parent?.principal === "agent" && this.isEnded(key.parent));
  }

  /** Undefined: refused with 403 scope-floor. */
  callerOf(key: Key, behalf: Key | undefined): Caller | undefined {
    if (behalf === undefined) return { key, floor: key.floor, verbs: key.verbs, principals: [key.principal] };
    const related =
      isGeneral(key.floor) || isGeneral(behalf.floor) || entries(key.floor).some(([d, v]) => behalf.floor[d] === v);
    if (this.isEnded(behalf) || !related || contradicts(key.floor, behalf.floor)) return undefined;
    return {
      key,
      floor: { ...key.floor, ...behalf.floor },
      verbs: key.verbs.filter((verb) => behalf.verbs.includes(verb)),
      principals: [key.principal, behalf.principal],
    };
  }

  /** The status of a request by what the caller is; 200: it may go on. */
  admits(caller: Caller, verb: Verb, alsoReads = false): number {
    if (!caller.verbs.includes(verb)) return 403;
    if (verb !== "memory:read" && caller.principals.includes("supervisor")) return 403;
    return alsoReads && !caller.verbs.includes("memory:read") ? 403 : 200;
  }

  /** What a selector's clauses reach, rule by rule of the table in the table in docs/concepts.md, "Scopes". */
  reads(caller: Caller, clauses: readonly Tags[] | undefined, view: View, row: Tags, isKnowledge: boolean): boolean {
    const wanted = clauses ?? [{}];
    if (wanted.length === 0) return false;
    if (isGeneral(row)) return isKnowledge || (isGeneral(caller.floor) && this.#reachesGeneral(caller, wanted, view));
    return wanted.some((clause) => {
      const effective = { ...clause, ...caller.floor };
      return view === "strict" ? isWithin(row, caller.floor) && isWithin(effective, row) : isWithin(row, effective);
    });
  }

  #reachesGeneral(caller: Caller, clauses: readonly Tags[], view: View): boolean {
    return clauses.some((clause) => view === "strict" || isGeneral({ ...clause, ...caller.floor }));
  }

  readsById(caller: Caller, row: Tags, isKnowledge: boolean): boolean {
    return isWithin(row, caller.floor) || (isGeneral(row) && isKnowledge);
  }

  forgets(effective: Tags, subtree: boolean, row: Tags): boolean {
    return subtree ? isWithin(row, effective) : isSame(row, effective);
  }
}
