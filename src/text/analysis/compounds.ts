const VOWELS = "[aeiouyäöüåæøéèàáíóúêôâî]";
const VOWEL = new RegExp(VOWELS);

/** What a word begins with before its first vowel: nothing, a consonant, or what is spoken as one. */
const ONSET = new RegExp(
  `^(?:[bcdfghjklmnprstvwxzß]|[bfgkp][lr]|[dtvw]r|kn|gn|qu|ch|chr|sch[lmnrw]?|s[cklmnpt]|s[cpt]r|spl|st[r]?|th|ph|pf[lr]?|ps|ts|tj|sj|zw|dw|kv)?${VOWELS}`,
);
/** Letters that are spoken as one: no joint is between them. */
const ONE_SOUND =
  /^(?:ch|ck|ph|th|qu|ie|ei|eu|au|äu|ee|oo|aa|uu|ij|oe|ui|ou|ai|oi|äi|öi|yi|uo|yö|äy|öy|iu|ää|öö|yy|ii|ng)$/;

/** Whether a word may be made of these: both have a vowel, and the second begins as a word does. */
export function mayJoin(front: string, back: string): boolean {
  if (!VOWEL.test(front) || !ONSET.test(back)) return false;
  const joint = `${front.at(-1) ?? ""}${back.charAt(0)}`;
  return !ONE_SOUND.test(joint);
}
