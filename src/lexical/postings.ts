import { ENTRY_HEAD, frequencyAt, lengthAt, placeAt } from "./block.ts";

/** An entry of a block, as it came. */
interface Entry {
  readonly data: Uint8Array;
  readonly at: number;
  readonly n: number;
}

/**
 * The passages of a source that have a word: by place, how often they have it, and their lengths in words. Of one
 * term they stay in the blocks that they came in; of several they are put together.
 */
export class Postings {
  /** How many there are. */
  size = 0;
  #entries: Entry[] = [];
  #term: number | undefined;
  #share = 1;
  /** Where several terms, or a tail's rows, are put together. */
  #places: number[] | undefined;
  #frequencies: number[] = [];
  #lengths: number[] = [];
  #isInOrder = true;

  /** One of a tail. */
  add(place: number, frequency: number, length: number): void {
    this.#spread();
    this.#put(place, frequency, length);
  }

  /** The n postings of a block's entry for a term. */
  addEntry(term: number, data: Uint8Array, at: number, n: number, share: number): void {
    if (this.#places === undefined && (this.#term === undefined || this.#term === term)) {
      this.#term = term;
      this.#share = share;
      this.#entries.push({ data, at, n });
      this.size += n;
      return;
    }
    this.#spread();
    for (let i = 0; i < n; i++)
      this.#put(placeAt(data, at, i), share * frequencyAt(data, at, n, i), lengthAt(data, at, n, i));
  }

  #put(place: number, frequency: number, length: number): void {
    const places = this.#places ?? [];
    if (this.size > 0 && (places[this.size - 1] ?? 0) >= place) this.#isInOrder = false;
    places.push(place);
    this.#frequencies.push(frequency);
    this.#lengths.push(length);
    this.size++;
  }

  /** Out of the entries into lists. */
  #spread(): number[] {
    if (this.#places !== undefined) return this.#places;
    const [entries, share] = [this.#entries, this.#share];
    this.#entries = [];
    this.#places = [];
    this.size = 0;
    for (const { data, at, n } of entries) {
      for (let i = 0; i < n; i++)
        this.#put(placeAt(data, at, i), share * frequencyAt(data, at, n, i), lengthAt(data, at, n, i));
    }
    return this.#places;
  }

  /** Puts all in the order of their places, each once with its greatest frequency. */
  settle(): void {
    if (this.#places === undefined) {
      this.#entries.sort((a, b) => placeAt(a.data, a.at, 0) - placeAt(b.data, b.at, 0));
      return;
    }
    if (this.#isInOrder) return;
    const [places, frequencies, lengths] = [this.#places, this.#frequencies, this.#lengths];
    const order = places.map((_, i) => i).sort((a, b) => (places[a] ?? 0) - (places[b] ?? 0));
    [this.#places, this.#frequencies, this.#lengths, this.size, this.#isInOrder] = [[], [], [], 0, true];
    for (const i of order) {
      const [place, frequency] = [places[i] ?? 0, frequencies[i] ?? 0];
      const last = this.size - 1;
      if (last >= 0 && this.#places[last] === place) {
        this.#frequencies[last] = Math.max(this.#frequencies[last] ?? 0, frequency);
      } else this.#put(place, frequency, lengths[i] ?? 0);
    }
  }

  /** Takes out what another has too; both are settled. */
  leaveOut(other: Postings): void {
    const [places, frequencies, lengths] = [this.#spread(), this.#frequencies, this.#lengths];
    const others = other.#spread();
    [this.#places, this.#frequencies, this.#lengths, this.size] = [[], [], [], 0];
    let o = 0;
    for (const [i, place] of places.entries()) {
      while (o < others.length && (others[o] ?? 0) < place) o++;
      if (others[o] !== place) this.#put(place, frequencies[i] ?? 0, lengths[i] ?? 0);
    }
  }

  /** The place after the last. */
  get end(): number {
    const last = this.#entries.at(-1);
    if (last !== undefined) return placeAt(last.data, last.at, last.n - 1) + 1;
    return (this.#places?.at(-1) ?? -1) + 1;
  }

  /** Places in their order, for whoever goes through several words at once. */
  placeAt(i: number): number | undefined {
    return this.#spread()[i];
  }

  frequencyAt(i: number): number {
    return this.#frequencies[i] ?? 0;
  }

  /** How often the passage at a place has the word. */
  frequencyOf(place: number): number {
    if (this.#places === undefined) {
      const entry = this.#entries.findLast(({ data, at }) => placeAt(data, at, 0) <= place);
      if (entry === undefined) return 0;
      const { data, at, n } = entry;
      const i = search(n, (k) => placeAt(data, at, k), place);
      return i < 0 ? 0 : this.#share * frequencyAt(data, at, n, i);
    }
    const places = this.#places;
    const i = search(this.size, (k) => places[k] ?? 0, place);
    return i < 0 ? 0 : (this.#frequencies[i] ?? 0);
  }

  /** Adds what each passage scores by the word: gain · tf / (tf + base + slope · length). */
  addScores(scores: Float64Array, gain: number, base: number, slope: number): void {
    if (this.#places !== undefined) {
      for (const [i, place] of this.#places.entries()) {
        const tf = this.#frequencies[i] ?? 0;
        scores[place] = (scores[place] ?? 0) + (gain * tf) / (tf + base + slope * (this.#lengths[i] ?? 0));
      }
      return;
    }
    for (const { data, at, n } of this.#entries) {
      // Counted and without a call for each: a question to a large scope comes to some hundred thousand.
      let place = at + ENTRY_HEAD;
      let frequency = place + 2 * n;
      let length = frequency + n;
      for (let i = 0; i < n; i++) {
        const here = ((data[place] ?? 0) << 8) | (data[place + 1] ?? 0);
        const tf = this.#share * (data[frequency] ?? 0);
        const norm = base + slope * (((data[length] ?? 0) << 8) | (data[length + 1] ?? 0));
        scores[here] = (scores[here] ?? 0) + (gain * tf) / (tf + norm);
        place += 2;
        frequency++;
        length += 2;
      }
    }
  }
}

/** Where a value stands in an ordered list of n; -1: it is not there. */
function search(n: number, valueAt: (i: number) => number, wanted: number): number {
  let [low, high] = [0, n - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (valueAt(middle) < wanted) low = middle + 1;
    else high = middle;
  }
  return n > 0 && valueAt(low) === wanted ? low : -1;
}
