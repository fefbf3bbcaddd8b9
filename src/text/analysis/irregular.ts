/** English words whose forms share no stem. */
const GROUPS = `be am is are was were been being
have has had
do does did done
go goes went gone
get gets got gotten
take takes took taken
give gives gave given
make makes made
come comes came
become became
see sees saw seen
know knew known
think thought
buy buys bought
bring brought
catch caught
teach taught
seek sought
fight fought
find found
tell told
say said
sell sold
hold held
keep kept
leave left
feel felt
meet met
lose lost
sit sat
stand stood
understand understood
win won
run ran
begin began begun
drink drank drunk
sing sang sung
swim swam swum
ring rang rung
sink sank sunk
write wrote written
drive drove driven
ride rode ridden
rise rose risen
choose chose chosen
speak spoke spoken
break broke broken
steal stole stolen
wake woke woken
wear wore worn
tear tore torn
bear bore born
swear swore sworn
draw drew drawn
grow grew grown
throw threw thrown
fly flew flown
blow blew blown
eat ate eaten
fall fell fallen
forget forgot forgotten
hide hid hidden
bite bit bitten
build built
send sent
spend spent
lend lent
bend bent
sleep slept
sweep swept
deal dealt
dream dreamt
mean meant
lead led
feed fed
read
light lit
shoot shot
hang hung
stick stuck
strike struck
dig dug
hear heard
pay paid
lay laid
lie lay lain
shake shook shaken
freeze froze frozen
child children
person people
man men
woman women
foot feet
tooth teeth
goose geese
mouse mice
wife wives
life lives
knife knives
leaf leaves
half halves
shelf shelves
self selves
good better best
bad worse worst
far further farther`;

function byForm(): Map<string, string[]> {
  const forms = new Map<string, string[]>();
  for (const group of GROUPS.split("\n")) {
    const words = group.split(" ");
    for (const word of words) forms.set(word, [...(forms.get(word) ?? []), ...words.filter((other) => other !== word)]);
  }
  return forms;
}

/** The other forms of a word, by each of its forms. */
export const IRREGULAR_FORMS: ReadonlyMap<string, readonly string[]> = byForm();
