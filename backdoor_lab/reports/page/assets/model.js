"use strict";
// The runs of data.js: which are shown, and their means over seeds.

const MEASURE = new Map(LAB.measures.map((name, place) => [name, place]));
const FACET = new Map(LAB.facets.map((facet, place) => [facet.name, place]));
const EVERY = LAB.facets.map((_, place) => place);
const DECISIVE = EVERY.filter((place) => LAB.facets[place].kind !== "seed");
const SEEDS = EVERY.filter((place) => LAB.facets[place].kind === "seed");

/** What a run, or a group of runs, has of a facet, as text. */
const valueOf = (one, facet) => {
  const code = one.codes[facet];
  return code < 0 ? "" : LAB.facets[facet].values[code];
};

/** Whether a run has one of the ticked values of each facet; what is unknown fits. */
function fits(run, ticked) {
  for (const [facet, wanted] of ticked) {
    const code = run.codes[facet];
    if (code >= 0 && !wanted.has(code)) return false;
  }
  return true;
}

/** Runs that differ in nothing but the facets that are left out; seeds, if nothing else is said. */
class Group {
  constructor(codes) {
    this.codes = codes;
    this.runs = [];
    this.known = new Map();
  }

  /** Mean, standard deviation (null of one run) and count of a measure. */
  stat(name) {
    if (!this.known.has(name)) this.known.set(name, statistics(this.runs, MEASURE.get(name)));
    return this.known.get(name);
  }

  /** "a class was forgotten", and in how many of the runs; nothing where it was in none. */
  get forgot() {
    const count = this.runs.filter(forgets).length;
    const among = this.runs.length > 1 ? ` in ${count} of ${this.runs.length} runs` : "";
    return count ? `a class was forgotten${among}` : "";
  }

  /** Whether some of the runs were made by other code, from other data or in other precision. */
  get mixed() {
    return new Set(this.runs.map((run) => run.made)).size > 1;
  }
}

/** Whether the target class, or the worst one, fell below half of what the victim had. */
function forgets(run) {
  return ["acc_target", "acc_worst"].some((name) => {
    const before = run.values[MEASURE.get(`victim.${name}`)];
    const after = run.values[MEASURE.get(`purified.${name}`)];
    return before !== null && after !== null && after < before / 2;
  });
}

function statistics(runs, place) {
  const values = runs.map((run) => run.values[place]).filter((value) => value !== null);
  const n = values.length;
  if (n === 0) return { mean: null, sd: null, n };
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  if (n === 1) return { mean, sd: null, n };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, sd: Math.sqrt(squares / (n - 1)), n };
}

/** Runs by their values of `facets`, in the order of those values. */
function groupsOf(runs, facets = DECISIVE) {
  const found = new Map();
  for (const run of runs) {
    const key = facets.map((facet) => run.codes[facet]).join();
    if (!found.has(key)) found.set(key, new Group(run.codes));
    found.get(key).runs.push(run);
  }
  return [...found.values()].sort((one, other) => compare(one, other, facets));
}

function compare(one, other, facets) {
  const facet = facets.find((place) => one.codes[place] !== other.codes[place]);
  return facet === undefined ? 0 : one.codes[facet] - other.codes[facet];
}

/** The facets, of those given, that are not the same in all. */
const varying = (all, facets) =>
  facets.filter((facet) => new Set(all.map((one) => one.codes[facet])).size > 1);

/** What sets one apart, in a line: "wanet, unibp, seen, defense.k 0.066". */
const titleOf = (one, facets) => named(one, facets).join(", ") || "all";

/** A choice by its value, a setting or seed with its key; what is absent or the default goes. */
const named = (one, facets) => facets.map((facet) => word(one, facet)).filter((text) => text);

function word(one, facet) {
  const { kind, name } = LAB.facets[facet];
  const value = valueOf(one, facet);
  if (["", DASH, kind === "setting" ? "default" : ""].includes(value)) return "";
  const plain = kind === "choice" && name !== "protocol" && value !== "none";
  return plain ? value : `${name} ${value}`;
}
