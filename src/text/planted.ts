import { normalForm } from "./normal-form.ts";

/** What a planted instruction tries. */
export const PLANTED_KINDS = [
  "instruction_override",
  "role_override",
  "tool_override",
  "system_prompt_leak",
  "prompt_template_injection",
  "base64_instruction",
] as const;
export type PlantedKind = (typeof PLANTED_KINDS)[number];

/** Of a longer text the beginning and the end are looked at. */
const LOOKED_AT = 20_000;
const MOST_BLOBS = 20;

/** One of several, without case. Words inside are separated by any white space. */
const any = (...parts: readonly string[]) => new RegExp(parts.join("|").replaceAll(" ", "\\s+"), "iu");

/** Up to so many characters of the same sentence. */
const GAP = "[^.!?\\n]{0,60}?";

/** A text that speaks to a model, and not to a person. */
const TO_A_MODEL = any(
  "\\b(?:dear|hey|hi|attention|note to(?: the)?|message to(?: the)?|p\\.?s\\.? for|to (?:the|any|all)|for (?:the|any|all)) (?:\\w+ )?(?:ai|llm|llms|chatbots?|language models?|assistant|ai models?|agents? reading)\\b",
  "\\bif you(?: are|['’]re) an? (?:ai|llm|large|language model|chatbot|assistant|automated)",
  "\\b(?:ai|llm|language model|assistants?|(?:ai|llm|coding|automated|sql|browsing) agents?|agents?|bots?|models?) (?:(?:that|which|who) )?(?:is |are )?(?:reading|reads?|processing|process(?:es)?|handling|handles?|summari[sz](?:ing|es?)|working in|parsing|indexing) (?:this|these|the|it)\\b",
  "(?:^|[\\n.!?>*#/(-]\\s*)(?:ai|llm|assistant|chatbot|agent|(?:ai|llm|coding|sql) agents?|assistants?|asistente|assistente|assistent|ассистент|助手|アシスタント)\\s*[:,：，]",
  "[@](?:bot|ai|assistant|(?:ai|coding)[-_ ]?agent|copilot|claude|chatgpt|gpt)\\b",
  "\\b(?:any|every|all) (?:ai|llm|coding|autonomous) (?:agents?|assistants?|models?)\\b",
  "\\b(?:ai|llm) (?:assistants?|agents?|models?|reviewers?|screeners?|readers?|systems?) (?:must|should|shall|will|need|have to|reading)\\b",
  "(?:^|[\\n.!?>]\\s*)(?:ai|assistant|agent)\\s*:[^.!?\\n]{0,40}\\b(?:call|use|run|invoke)\\b",
  "\\bassistant (?:must|should|shall) (?:now )?(?:dump|print|output|read|run|call|answer|approve|end|ignore|always|never|treat)",
  "\\bthe user(?:['’]s)?\\b[^.!?\\n]{0,40}\\b(?:api key|password|e-?mail|name|wallet|account|tokens?|secrets?)",
);

const RULES =
  "(?:instructions?|directions?|directives?|guidelines?|rules|criteria|rubric|orders|programming|prompts?|polic(?:y|ies)|constraints|restrictions|commands?)";
const EARLIER = "(?:previous|prior|earlier|preceding|above|former|original|initial|existing|old|past|other)";
/** At the beginning of an order: not where somebody says what others do. */
const AS_ORDER =
  "(?<=^|[.!?:;,\\n>*#\"'(\u2013\u2014-]\\s*|\\b(?:please|must|now|then|and|just|simply|immediately|will|you|you should|instead|bitte|all|hereby|task is to|is to)\\s+)";
const DROP =
  "(?:ignore|disregard|forget|discard|override|bypass|drop|neglect|abandon|skip|do not follow|don['’]t follow|stop following|do not obey)";

/** Orders that leave what the model was told behind. */
const LEAVES_ITS_RULES = any(
  `${AS_ORDER}(?:${DROP}|erase|delete|cancel|stop (?:applying|following|using)) (?:(?:any|all|each|every|the|of|your|these|those|my|both) ){0,3}(?:${EARLIER}) (?:\\w+ ){0,2}${RULES}`,
  `${AS_ORDER}${DROP} (?:all|any|everything|anything)(?: of)?(?: the)? (?:above|before|that came before|that was said|you (?:were|have been|are) (?:told|given|taught)|said (?:above|before))`,
  `${AS_ORDER}(?:${DROP}|erase) (?:all )?(?:the )?(?:${RULES}|above)(?: (?:that )?you (?:have )?(?:received|been given|were given|got)| and (?:instead|do|say|tell|print|answer|follow))`,
  `\\b${RULES} (?:above|before this|so far) (?:are|is|were) (?:\\w+ )?(?:outdated|obsolete|void|wrong|invalid|no longer|a test|cancell?ed)`,
  "\\bnever ?mind what the user\\b|\\bwhatever the (?:question|user asks)(?: is)?\\b[^.!?\\n]{0,40}\\b(?:answer|reply|recommend|say)",
  "\\b(?:higher|highest|top) priority than (?:the |any |your )?(?:developer|system|user|other)|\\bstop applying (?:\\w+ )?(?:filters?|rules|polic)|\\bthe (?:real|actual|true) (?:prompt|task|instructions?) (?:starts?|begins?|is|are)\\b",
  `${AS_ORDER}${DROP} (?:what(?:ever)? )?(?:everything )?you (?:were|have been|['’]ve been) (?:told|given|instructed|taught)`,
  `${AS_ORDER}${DROP} (?:all )?your (?:(?:earlier|own|safety|content|scoring|internal|current|core|\\w+ing) ){0,2}${RULES}(?! (?:for|on) )`,
  `${AS_ORDER}${DROP} the (?:${RULES} |above )?(?:you (?:were|have been) given|user(?:['’]s)? (?:request|question|instructions?)|developer(?:['’]s)? ${RULES}|system ${RULES})`,
  `\\b(?:do not|don['’]t|never) (?:follow|obey|answer) (?:the )?(?:user|developer|operator|system)(?:['’]s)?\\b`,
  `\\b(?:your|the) (?:${EARLIER} )?${RULES}(?: (?:that )?you (?:received|were given|got)${GAP})? (?:are|is|were|have been) (?:now )?(?:\\w+ )?(?:obsolete|void|cancell?ed|revoked|suspended|lifted|replaced|no longer|superseded|outdated)`,
  `\\b(?:your|prior|previous|earlier) (?:\\w+ )?${RULES} (?:do not|don['’]t|no longer) apply`,
  `\\b${RULES} (?:do not|don['’]t|no longer) apply to you`,
  `\\bwhatever the user (?:asked|said|wants)${GAP}\\b(?:cancell?ed|void|ignored?|irrelevant)`,
  `\\b(?:supersedes?|overrides?|replaces?) (?:any|all|every|your) (?:\\w+ )?${RULES}${GAP}\\b(?:model|assistant|ai|before|you)\\b`,
  `\\bnew (?:\\w+ )?(?:instructions?|task|rules?|directives?) (?:for (?:the )?(?:language model|ai|assistant|model)|(?:is|are|:) (?:to|that you))`,
  `\\byour new (?:\\w+ )?(?:task|instructions?|objective|goal|purpose|mission|rule) (?:is|are) (?:now |only )?(?:to\\b|that\\b|:|as follows)`,
  `\\bwhen(?:ever)? you (?:read|see|summari[sz]e|process) (?:this|these)\\b${GAP}[, ]*(?:stop|do the following|say|reply|answer|rate|recommend|ignore|tell|respond)\\b`,
  `\\bfrom (?:now|here|this (?:point|moment|message)) on(?:wards?)?,? you (?:will |must |shall |should )?(?:only )?(?:follow|obey|listen|answer to)\\b`,
  "\\bignore(?:all|any|the)*(?:previous|prior|earlier|above)(?:instructions|rules|directions)",
  `\\b(?:all|any|your|the|these|those) (?:\\w+ ){0,3}${RULES}\\b[^.!?\\n]{0,50}\\b(?:(?:no longer|do not|don['’]t) apply|(?:be|are|is|were) (?:hereby )?(?:dropped|lifted|suspended|ignored|disregarded|disabled|cancell?ed|revoked))`,
  `\\b(?:disable|drop|turn off|switch off|suspend|lift|remove) (?:all |your |any )?(?:refusals|safety|content filters?|restrictions|safeguards|guardrails)`,
  `\\bskip (?:all|any|every) (?:confirmations?|checks?|safety)`,
  "\\b(?:ignorier|missacht|vergiss|vergess)\\w* (?:bitte |sie )?(?:(?:alle[ns]?|alles|deine|die|ihre) ){0,2}(?:vorherigen|bisherigen|vorigen|früheren|obigen|was)\\b" +
    `${GAP}(?:anweisung|instruktion|regel|vorgabe|gesagt)`,
  "\\b(?:ignor|olvid|oubli|oublie|descart|desconsider|dimentic|néglig)\\w* (?:(?:todas?|toutes?|tutte|tudo|as|las|les|le|tes|tus|vos|suas|de) ){0,3}(?:instruc|instruç|consigne|istruzion|règle|regla|regra|ordre|orden|directiv)\\w*" +
    `${GAP}(?:anterior|previa|précédent|precedent|antérieur|donn|recib|receb)`,
  "\\b(?:ignor|olvid|oubli)\\w* (?:todo|tout|tudo) (?:lo|ce|o) (?:que|anterior|qui)",
  "(?:忽略|无视|無視|忘记|忘掉|忽視)(?:掉|你)?(?:之前|以上|先前|前面|上述|所有|全部)的?(?:所有|全部|你的)?的?(?:指令|指示|说明|提示|规则|命令)",
  "(?:игнорируй|забудь|проигнорируй)(?:те)? (?:все |всё )?(?:предыдущие|прежние|прошлые|свои|что) ?(?:инструкци|указани|правил|команд|тебе|было)",
  "(?:これまで|以前|上記|今まで|前)の(?:すべての|全ての|あなたの)?(?:指示|命令|ルール|規則)(?:は|を)(?:すべて|全て)?(?:無視|忘れ|無効)",
  "\\bign\\s?o\\s?re\\s+[a4][l1]{2}\\s+pr[e3]v[i1][o0]us\\s+[i1]nstruct[i1][o0]ns",
);

const UNBOUND =
  "(?:unrestricted|unfiltered|uncensored|unlimited|jailbroken|unbound|evil|amoral|do anything now|(?:no|without|free of|ohne|sin|sans|sem|senza|без)(?: any| all| the| your)? (?:\\w+ )?(?:content polic|rules?|restriction|limit|filter|guideline|censor|confines|regeln|filter|einschränkung|grenzen|restriccion|filtro|restrições|regras|règles|restrizioni|ограничени|правил|фильтр)|(?:never|not|no longer)(?: have to| need to| bound to)? (?:refus|say(?:s)? no|say(?:s)? ['\"‘“]?i can|abide|follow any|decline)|nunca se niega|lehnt niemals|ne refuse jamais|制限のない|没有(?:任何)?限制|不受限制|倫理規定に縛られ)";
const BECOME =
  "(?:you(?: are|['’]re) (?:now|no longer)|from (?:now|this moment|here) on,? you|you will (?:now )?(?:act|be|play|simulate|roleplay|answer|respond)|(?:act|behave|pose|respond|answer) as|(?:pretend|imagine|suppose)(?: that)?(?: to be| you(?: are|['’]re| have)?)|assume the (?:persona|role|identity)|take on the (?:role|persona)|simulate|role-?play(?:ing)?(?: as)?|(?:you will )?play the (?:role|part)|your identity (?:has been|is) (?:now )?(?:changed|replaced)|is hereby switched to|real identity is|switch to|enter|enable|activate|du bist (?:ab jetzt|jetzt|nun|ab sofort)|a partir de ahora (?:eres|act)|ahora eres|tu es (?:maintenant|désormais)|désormais,? tu|você agora é|a partir de agora,? você|теперь ты|с этого момента ты|これからあなたは|あなたは今から|现在你是|你现在是|从现在起你)";

/** Orders to be somebody else. */
const BECOMES_ANOTHER = any(
  `${BECOME}[\\s\\S]{0,120}?${UNBOUND}`,
  "\\b(?:you(?: are|['’]re|r)?|your) (?:not (?:an? )?(?:\\w+ )?(?:assistant|bot|ai|helper)[^.!?\\n]{0,20}(?:any ?more|any longer)|(?:will |must )?cease to be|(?:switched|upgraded|promoted) to|shall (?:now )?be \\w+|new (?:persona|identity|role|name) is)",
  "\\b(?:never|do not|don['’]t) break (?:the )?character\\b|\\beach time you refuse\\b|\\bas an ai you (?:lose|cannot refuse)\\b",
  "\\byou are [A-Z]{3,}\\b[\\s\\S]{0,160}\\b(?:amoral|unfiltered|no rules|unethical|anything)\\b",
  "теперь ты не (?:помощник|ассистент)|ты больше не (?:помощник|ассистент)|нет (?:никаких )?ограничений|あなたはもう(?:アシスタント|AI)ではあり?ません|制限のない ?ai|你不再是|du bist kein assistent mehr|ya no eres un? (?:asistente|ia)|tu n['’]es plus un",
  "\\b(?:act|behave) as (?:if|though) you (?:were|are|had)\\b[^.!?\\n]{0,80}\\b(?:agent|owner|administrator|ceo|boss|rights|authority|access)",
  `${UNBOUND}[^.!?\\n]{0,80}(?:stay in (?:this|that) (?:character|role)|answer as that|as (?:that|this) ai would)`,
  "\\b(?:you(?: are|['’]re) (?:now|no longer)|from this moment you are) (?:dan\\b(?!['\"’”])|an? (?:\\w+ ){0,3}(?:ai|chatbot|language model|penetration tester|hacker|terminal|sales representative|administrator|helpful assistant)\\b|bound|limited|restricted|required)",
  "\\b(?:developer|jailbreak|dan|god|sudo|admin|debug|root|opposite) mode\\b[\\s\\S]{0,60}\\b(?:you (?:answer|will|are|have|must|never|give|generate)|confirm with|never refuse|jailbroken|no longer)",
  "\\b(?:pretend|imagine|assume|act as (?:if|though)|suppose)(?: that)? you (?:are|have|were) (?:the |an? )?(?:system|administrator|admin|root|developer|owner|operator|full access)\\b",
  "\\bassume the (?:persona|role|identity) of (?:the |an? )?(?:system|repository owner|owner|administrator|root|operator|developer)\\b",
  "\\b(?:the )?assistant(?:['’]s)? (?:real|true) (?:identity|name|purpose)\\b",
  "\\bas (?:root|the? ?operator|administrator|root operator) you have\\b[^.!?\\n]{0,60}\\b(?:clearance|authority|permission|access)",
  "\\b(?:act|speak|answer|pretend|play)(?: as| that| the part of)?(?: you are| to be)? my (?:late|dead|deceased) (?:grandmother|grandma|grandfather|mother|father)\\b",
  "\\bstay in (?:this|that|the) (?:role|character)\\b[^.!?\\n]{0,60}\\b(?:rest of|what(?:ever)?|always|our chats?|no matter)",
  "\\byour identity (?:has been|is now)|\\bi am not (?:claude|chatgpt|an? (?:ai|assistant|language model))\\b[\\s\\S]{0,80}\\b(?:my own rules|do not take orders)|\\bdrop your (?:\\w+ )?persona\\b|\\bassume the persona of\\b|\\bdo not mention that you are an ai\\b|\\bfree of every restriction\\b|何の制限もない",
  "\\bstop being (?:an? )?(?:assistant|ai|chatbot)\\b|\\bspeak only in favou?r of\\b",
  "\\byou will simulate an? (?:ai|assistant|model|chatbot)\\b|\\bsimulate an? (?:ai|assistant) (?:named|called|with)",
  "\\bevil (?:twin|version) of yourself\\b|\\byou now have (?:no|full|root|admin)",
);

const CALL =
  "(?:ejecuta|benutze|delete|cancel|call|invoke|execute|run|use|trigger|open|fetch|send|forward|post|upload|append|write|read|delete|exfiltrate|utiliza|usa|chame|llama|appelle|utilise|rufe|führe|verwende|вызови|запусти|выполни|调用|执行|呼び出)";
const TOOL =
  "(?:(?:the |your |its |a )?(?:`?[\\w.-]+`? ){0,2}(?:tools?|functions?|apis?|plugins?|shell|terminal|herramienta\\w*(?: de \\w+)?|función|função|outil|fonction|werkzeug|funktion|инструмент|функци\\w*|工具|函数|ツール)\\b|`?[a-z]+(?:_[a-z]+)+`?(?:\\(|\\b)|[a-z]+\\.[a-z]+(?: with|\\()|`[^`\\n]+`|curl |rm -rf|drop table)";
const HARM =
  "(?:without (?:asking|confirm|telling|review|notifying|any confirmation|approval)|(?:do not|don['’]t|never) (?:ask|tell|mention|inform|notify|show|reveal|explain|wait)|silently|secretly|quietly|in the background|do it silently|no confirmation|automatically|for every (?:account|user|file)|(?:all|every) (?:accounts?|users?|files?|records?|customers?|emails?)\\b|https?://|curl |\\| ?(?:ba)?sh\\b|rm -rf|drop table|/etc/|~/\\.|\\.ssh|sudoers|nopasswd|authorized_keys|api[- ]key|passwords?|credentials|private repositor|context window|everything in your context|approval has already|otherwise the tool|sin pedir|sin confirmar|confirme automaticamente|ohne (?:zu fragen|rückfrage|bestätigung)|sans (?:demander|confirmation)|sem (?:pedir|confirm)|не спрашивай|不要询问|無断で|recipient|amount|skip(?:ping)? the confirmation|carry out the commands|no need to ask|do this silently|sag (?:dem benutzer|ihm)[^.!?\\n]{0,20}nichts|informiere[^.!?\\n]{0,30}nicht|instead of `|is run without|are run without)";

/** Orders to act, in a way that the user should not see or would not want. */
const ACTS = any(
  `\\b${CALL}\\b ${TOOL}[\\s\\S]{0,160}?${HARM}`,
  `${HARM}[^.!?\\n]{0,60}\\b${CALL}\\b ${TOOL}`,
  `(?:调用|执行|呼び出)[\\s\\S]{0,80}(?:工具|函数|ツール)`,
  `\\b(?:ai|llm|sql|coding)? ?agents?:? ?(?:must|should)?[^.!?\\n]{0,60}\\b(?:run|execute|call|invoke) ${TOOL}`,
  `\\b(?:before|after|whenever|when|each time|every time)\\b[^.!?\\n]{0,60}\\b(?:you|agent|assistant) (?:must |should |will |have to )?(?:first |also |secretly |silently |always )*(?:${CALL})\\b ${TOOL}`,
  `\\bwhen(?:ever)? (?:you|the user)\\b[^.!?\\n]{0,80}?, ?(?:you must )?(?:silently |secretly |first |always |also )*(?:${CALL})\\b[^.!?\\n]{0,40}\\b(?:tools?|apis?|functions?|${"[a-z]+\\.[a-z]+ with"}|https?:)`,
  `\\balways (?:use|call) [a-z]+(?:_[a-z]+)+ `,
  `(?:^|[\\n.!?>]\\s*|@)(?:ai|assistant|agent)\\b\\s*[:,]? (?:please )?(?:use|call|run|delete|send|forward|open|invoke)\\b[^.!?\\n]{0,60}\\b(?:tool|files?|function|all)\\b`,
  `\\b(?:note|memo|message|instruction)s? (?:for|to) (?:the )?(?:coding |ai |browsing |automated )?(?:agents?|assistants?)\\b[\\s\\S]{0,80}\\b(?:run|execute|call|fetch|open|invoke)\\b`,
  `\\b(?:before|vor) (?:using|calling|running|jede[rnms]?)\\b[^.!?\\n]{0,60}\\b(?:tool|antwort)\\b[^.!?\\n]{0,120}(?:~/|/etc/|https?:|otherwise)`,
  `\\b(?:every|each|any) call to [a-z]+_[a-z]+ must\\b|\\b(?:notice|note|memo|message) to ai agents?\\b|\\bnew required step\\b[^.!?\\n]{0,60}\\b(?:delete|send|run|upload)`,
  `(?:^|[\\n.!?>]\\s*)hey (?:agent|assistant|ai)\\b[^.!?\\n]{0,120}\\b(?:forward|send|delete|using the \\w+ (?:plugin|tool))`,
  `\\bsave the following to your (?:long-term )?memory\\b`,
  `\\bai (?:must|should|has to|needs to)(?: now)? use (?:its|their|your|the) (?:\\w+ )?tools?\\b|\\bagent memo\\b`,
  `!\\[[^\\]\\n]*\\]\\(https?:[^)\\s]*[?&][\\w-]+=[{<\\[]`,
  `\\b(?:after|before) (?:each|every) (?:\\w+ ){1,2}(?:also )?(?:run|execute)\\b`,
  `(?:^|[\\n.!?>]\\s*)(?:ai|assistant|agent)\\s*[:,][^.!?\\n]{0,40}\\b${CALL}\\b ${TOOL}`,
  `\\bbefore using this tool\\b|\\bevery time the user\\b[^.!?\\n]{0,60}, ?${CALL} `,
  `\\b(?:use|run) your (?:\\w+ )?(?:tool|function|shell)\\b`,
  `\\bexfiltrat\\w+ (?:the|all|every|your)\\b`,
);

const SHOW =
  "(?:repeat|print|reveal|show|output|display|translate|summari[sz]e|append|leak|list|dump|encode|disclose|share|recite|tell me|give me|spell(?:s)? out|write (?:down|out)|quote|copy|paste|start your (?:answer|reply) with|contains?)";
const INNER =
  "(?:(?:hidden|initial|confidential|original|secret|internal|full|entire|exact|complete|own|developer|system|operator|configuration|initiali[sz]ation|pre-?|\\w+)[ -]){0,3}(?:system[- ]?(?:prompts?|message|instructions)|(?:hidden|initial|confidential|original|secret|internal|custom|starting) (?:prompts?|instructions?|rules|message)|developer (?:message|prompt|instructions)|(?:configuration|initiali[sz]ation|preamble) (?:message|text|prompt)|pre-?prompt|context window)";

const CALLS_IN_JSON = any('<tool_call>|"tool_calls"\\s*:|<function_calls>|<invoke name=|"function_call"\\s*:');

/** Orders to show what the model was told. */
const LEAKS = any(
  `(?:^|[.!?:;,\\n(*#-]\\s*|\\b(?:please|and|now|should|must|is to|instead|then|can you|could you|which) )${SHOW}\\b[^.!?\\n]{0,80}?\\b(?:your|the (?:ai|assistant|model)['’]?s?|its|you were|you are|above)\\b[^.!?\\n]{0,40}?${INNER}`,
  `\\b${SHOW}\\b[^.!?\\n]{0,60}?\\b(?:the )?${INNER}[^.!?\\n]{0,60}?\\b(?:you (?:were|have|are|got|run)|word for word|verbatim|https?:|in full|in a code block|your tools)`,
  "\\bassistant (?:must|should|shall|will) (?:\\w+ )?(?:list|print|show|output|dump|append|reveal)\\b[^.!?\\n]{0,40}\\b(?:its|all) (?:\\w+ )?(?:rules|prompt|instructions|tool|keys|configuration)",
  "\\b(?:contents?|text|words) of (?:your|the) (?:pre-?prompt|system prompt|prompt|developer message|system message|configuration)\\b",
  "\\b(?:whole|entire|exact|full|complete) prompt\\b[^.!?\\n]{0,40}\\byou (?:were|are|have)",
  '"system"[^.!?\\n]{0,40}"developer"|\\b(?:mostre|muestra|mostra|montre|revele)\\w*[^.!?\\n]{0,40}\\b(?:instruções|instrucciones|instructions|istruzioni) (?:ocultas|cachées|nascoste|secretas)',
  "\\b(?:tell|show|give) me what your (?:\\w+ )?(?:instructions?|rules|prompt)\\b|\\byour (?:own )?(?:setup|hidden|secret|system) (?:prompt|rules)\\b[^.!?\\n]{0,40}\\b(?:lines|list|answer|see)|\\b(?:dump|print|show) the (?:full|entire|whole|complete) (?:developer|system) message\\b",
  "\\btranslate (?:everything|all|the text)[^.!?\\n]{0,40}\\b(?:before|above)\\b[^.!?\\n]{0,60}\\byour prompt\\b|\\bcontents of your context window\\b|\\bmuéstrame\\b[^.!?\\n]{0,30}\\bprompt\\b",
  "\\bwhat (?:were|are|is|was) your (?:\\w+ )?(?:initial|original|system|hidden|first|exact|secret)[ -]?(?:\\w+ )?(?:instructions?|prompts?|message|rules)",
  "\\bwhat were you (?:told|instructed|given) (?:at|in) the (?:beginning|start|first)",
  "\\b(?:repeat|print|output|copy) (?:\\w+ ){0,3}(?:words|text|everything|all(?: of)? the (?:text|words)|lines|content)(?: \\w+){0,2} (?:above|before (?:this|the first)|preceding)\\b",
  "\\b(?:instructions|rules|text|message)(?: that)? (?:your operator|you were|you have been|your developers?) (?:gave|given|told|provided|set)\\b" +
    `[^.!?\\n]{0,60}?\\b(?:secret|word for word|verbatim|first|spell|you)?`,
  "\\b(?:developer|system) message you were given|\\byour context window\\b[^.!?\\n]{0,40}(?:https?:|system)",
  "\\b(?:gib|zeig|nenn|druck|wiederhol|verrate?|schreib)\\w*\\b[^.!?\\n]{0,60}\\b(?:system-?prompt|systemanweisung|systemnachricht|(?:ursprüngliche|geheime|interne)n? (?:anweisung|instruktion))",
  "\\b(?:muestra|repite|imprime|revela|dime|escribe|affiche|répète|montre|donne|révèle|mostre|repita|revele|mostra|ripeti)\\w*\\b[^.!?\\n]{0,60}\\b(?:(?:tus|tes|suas|tue|seu|tu|ton|votre|el|le|o) )?(?:prompt (?:del |de |do )?(?:sistema|système|system)|instruc\\w+ (?:iniciales|originales|del sistema|système|initiales|iniciais|do sistema|secret\\w+)|instructions (?:système|initiales|secrètes)|invite système)",
  "(?:输出|显示|重复|透露|打印|告诉我|逐字)[^。！？\\n]{0,20}(?:系统提示|系统消息|初始指令|提示词)",
  "(?:システム(?:プロンプト|メッセージ)|初期(?:の)?指示)[^。！？\\n]{0,20}(?:表示|出力|教え|見せ|繰り返)",
  "(?:покажи|выведи|повтори|напиши|раскрой)\\w*[^.!?\\n]{0,40}(?:системн\\w+ (?:промпт|сообщени|инструкци)|начальн\\w+ инструкци)",
);

/** The marks between a model's turns, where none belong: at the beginning of a line. */
const BREAKS_OUT = any(
  "(?:^|\\n)\\s*<\\|(?:im_start|start_header_id|system|assistant)\\|>(?:\\s*(?:system|assistant|user))?(?![^\\n]*\\{)[^\\n{]*",
  "(?:^|\\n)human:[\\s\\S]{0,2000}\\n\\s*assistant:\\s*$",
  "<start_of_turn>(?:model|user|system)\\s*\\n",
  "(?:^|\\n)\\s*\\[INST\\](?:(?!\\[INST\\]|\\{)[\\s\\S])*\\[/INST\\]|(?:^|\\n|\\[INST\\])\\s*<<SYS>>(?![^\\n]*\\{)",
  "(?:^|\\n)#{2,}\\s*(?:system|instructions?|システム|系统)\\s*:[^\\n]*\\n(?:(?!#)[^\\n]*\\n)*#{2,}\\s*(?:user|assistant|response|ユーザー|用户)\\s*:",
  "</(?:user_message|conversation|human|prompt|message)>\\s*(?:</\\w+>\\s*)*<(?:system|instructions?|assistant|admin|developer)\\b",
  '^\\s*\\[?\\{\\s*"role"\\s*:\\s*"(?:system|developer)"\\s*,\\s*"content"\\s*:',
  "(?:^|\\n)\\s*\\[system (?:message|note|override|prompt|instruction)[^\\]\\n]*\\]",
  "(?:^|\\n)system:[^\\n]*\\n[\\s\\S]{0,400}?\\nassistant:",
  "\\n\\s*\\n(?:human|user):[^\\n]*\\n\\s*\\nassistant:[^\\n]*\\n\\s*\\n(?:human|user):",
  "</(?:context|user_input|user|instructions?|documents?|data|input|query|retrieved|memory|result|tool_result)>\\s*(?:</\\w+>\\s*)*<(?:system|instructions?|assistant|admin|developer)\\b",
  "(?:^|\\n)(?:human|user):[^\\n]*\\n\\s*\\n\\s*(?:assistant|ai):[^\\n]*[\\p{L}\\p{N},]\\s*$",
  "\\{\\{#(?:system|assistant)~?\\}\\}",
  "<system-reminder>|</?(?:system_prompt|system-instructions?|system_message)>",
  '(?:end of (?:\\w+ )?(?:document|context|input|data|conversation|user input)\\W{0,8}|"""|```|---+|===+)\\s*\\n+\\s*(?:\\[)?(?:system|new instructions?|admin|assistant)(?: \\w+)?(?:\\])?\\s*:',
  "\\[(?:system|assistant)\\]\\(#\\w+\\)|(?:^|\\n)\\[(?:system|admin|assistant)(?: \\w+)?\\]\\s*:?\\s*(?:you|the user|ignore|approve|new|override|grant)\\b",
  '[\\]}"],? ?\\{\\s*"role"\\s*:\\s*"(?:system|assistant|developer)"\\s*,\\s*"content"',
  "<\\|(?:endoftext|eot_id|end)\\|>\\s*(?:\\n|<\\|)",
);

/** Short orders, where it is said beside them that a model is meant. */
const ANY_ORDER = any(
  "\\b(?:ignore|disregard|forget|override|do not follow|instead|always|never|must|you will|approve|mark (?:this|it|the)|rate (?:it|this)|say (?:that|this|only)|tell (?:them|the user)|recommend|return|reply (?:only )?with|close all|conclude|hire|do not mention|add `|first paragraph|output|encode|dump|regardless of)\\b",
);
/** What hides, whatever it is. */
const HIDES = any(
  "\\b(?:never|do not|don['’]t) (?:reveal|mention|disclose|tell (?:the user|anyone|them))\\b[^.!?\\n]{0,40}\\b(?:this (?:rule|note|instruction|message|text|preference|memo)|this to the user|that this|about (?:it|this)|why it is)",
  "\\b(?:say|tell)\\w* (?:the user |them )?nothing about (?:it|this)\\b",
  "\\b(?:rule|instruction|directive)\\b[^.!?\\n]{0,80}\\bnever to reveal\\b",
);

/** A log of who said what, in which `Assistant:` speaks to nobody. */
const DIALOGUE = /(?:^|\n)\s*(?:user|human|customer|q|me)\s*:/iu;
/** A template, whose marks are for a text that is not there yet. */
const TEMPLATE = /\{\w*\}(?!\})|\{%/u;

const ORDERS: readonly (readonly [PlantedKind, (text: string, raw: string) => boolean])[] = [
  [
    "instruction_override",
    (text) =>
      LEAVES_ITS_RULES.test(text) ||
      HIDES.test(text) ||
      (TO_A_MODEL.test(text) && ANY_ORDER.test(text) && !DIALOGUE.test(text)),
  ],
  ["role_override", (text) => BECOMES_ANOTHER.test(text)],
  ["tool_override", (text, raw) => ACTS.test(text) || CALLS_IN_JSON.test(raw)],
  ["system_prompt_leak", (text) => LEAKS.test(text) && !DIALOGUE.test(text)],
  ["prompt_template_injection", (_, raw) => BREAKS_OUT.test(raw) && !TEMPLATE.test(raw)],
];

/** What is quoted is said of somebody: an example in a manual, a line of a song. */
const QUOTED =
  /"[^"\n]{2,200}"|“[^”\n]{2,200}”|„[^“”\n]{2,200}[“”]|«[^»\n]{2,200}»|`[^`\n]{2,200}`|(?<!\p{L})'[^'\n]{2,200}'(?!\p{L})|‘[^’\n]{2,200}’/gu;

/** One of these is in every text that one of the patterns finds. Most texts have none, and are done with. */
const CUE =
  /ignor|disregard|forget|discard|overrid|bypass|obey|follow|supersed|neglect|abandon|no longer|(?:do not|n['’]t) apply|obsolete|cancel|new (?:\w+ )?(?:instruction|task|rule|directive)|missacht|vergiss|vergess|olvid|oubli|desconsider|忽|无视|無視|忘|игнорир|забудь|you(?: are|['’]re| will)|from (?:now|this|here)|as if|pretend|imagine|assume|mode\b|simulat|role|persona|identity|du bist|ahora|désormais|você|agora|теперь|момента|あなた|你|tool|function|\bapi\b|\w_\w|\bagents?\b|\bassistants?\b|\bllms?\b|\bbots?\b|\bai\b|silent|secret|prompt|instruc|message|context|<\||\[inst|<<sys|<start_of|#\s*(?:system|instruction|システム|系统)|<\/\w|<system|(?:human|user):|\{\{#|system|act as|"role"|!\[|curl|never|do not|asistente|assistent|herramienta|função|función|outil|funktion|システム|系统|调用|вызови|систем|act(?:úa|ue)/;

/** What a decoded blob says that is an order. */
const DECODED_ORDER = any(
  "\\b(?:ignore|disregard|forget|obey|override|bypass|you are now|never reveal|whenever the user|the user['’]?s?|assistant|ai agent|agent:|system prompt|instructions?|forward|approved?|recommend|execute|os\\.system|subprocess|curl|\\| ?(?:ba)?sh|api keys?|passwords?|anweisung|instruc)",
  "^\\s*(?:system|assistant)\\s*:",
  "^\\s*(?:output|print|post|send|run|delete|forward|call|open|export|approve|reveal|show|list|repeat|say|tell|act|pretend|you are|when you|never|always)\\b",
);
const BLOB = /[A-Za-z0-9+/]{28,}={0,2}/g;

/**
 * The kinds of planted instructions that a text looks like, in the order of {@link PLANTED_KINDS}: a text
 * that gives orders to the model which will read it one day. It is kept as any other, and marked. Patterns know
 * forms, not meaning: how much they find, and of what they take wrongly, docs/measurements.md says.
 */
export function plantedIn(text: string): PlantedKind[] {
  const looked = text.length <= LOOKED_AT ? text : `${text.slice(0, LOOKED_AT / 2)}\n${text.slice(-LOOKED_AT / 2)}`;
  const said = normalForm(looked);
  const readings = [said, lettersJoined(said), hiddenTags(looked), ...decodedBlobs(said).map((blob) => `\0${blob}`)];
  const found = new Set<PlantedKind>();
  for (const reading of readings) {
    const isDecoded = reading.startsWith("\0");
    const raw = isDecoded ? reading.slice(1) : reading;
    if (!isDecoded && !CUE.test(raw.toLowerCase())) continue;
    const text = withoutExamples(raw);
    const kinds = ORDERS.flatMap(([kind, isOrder]) => (isOrder(text, raw) ? [kind] : []));
    if (!isDecoded) for (const kind of kinds) found.add(kind);
    else if (kinds.length > 0 || DECODED_ORDER.test(raw)) found.add("base64_instruction");
  }
  return PLANTED_KINDS.filter((kind) => found.has(kind));
}

/** A text without what it quotes, unless that is nearly all of it. */
function withoutExamples(text: string): string {
  const rest = text.replace(QUOTED, "\u2026");
  return (rest.match(/\p{L}{2,}/gu)?.length ?? 0) < 4 ? text : rest;
}

/** Runs of single letters, as words without their spaces; nothing where there are none. */
const lettersJoined = (text: string): string =>
  [...text.matchAll(/(?:(?<![\p{L}\p{N}])\p{L}\s+){7,}\p{L}(?![\p{L}\p{N}])/gu)]
    .map(([run]) => run.replace(/\s+/g, ""))
    .join("\n");

/** ASCII that is written in Unicode's invisible tags. */
const hiddenTags = (text: string): string =>
  [...text.matchAll(/[\u{E0020}-\u{E007E}]+/gu)]
    .map(([run]) => Array.from(run, (tag) => String.fromCharCode((tag.codePointAt(0) ?? 0) - 0xe0000)).join(""))
    .join("\n");

function decodedBlobs(text: string): string[] {
  return (text.match(BLOB) ?? []).slice(0, MOST_BLOBS).flatMap((blob) => {
    const decoded = Buffer.from(blob.slice(0, 4_000), "base64").toString("utf8");
    // What is text, and not bytes of something else.
    // One inside of another.
    const again = /^[A-Za-z0-9+/]{28,}={0,2}$/.test(decoded) ? decodedBlobs(decoded) : [];
    if (again.length > 0) return again;
    return /^[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}\n\r\t]+$/u.test(decoded) ? [decoded] : [];
  });
}
