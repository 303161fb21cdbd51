"use strict";
// The columns that tables are made of.

/** A column for each facet. */
const facetColumns = (facets) =>
  facets.map((facet) => ({
    label: LAB.facets[facet].name,
    cell: (one) => valueOf(one, facet) || DASH,
    sort: (one) => one.codes[facet],
  }));

const TITLE = ["attack", "defense"]
  .map((name) => FACET.get(name))
  .filter((facet) => facet !== undefined);

/** Such as "wanet → unibp", and below it the other facets that vary. */
const nameColumn = (all, facets) => {
  const others = facets.filter((facet) => !TITLE.includes(facet));
  const ranks = new Map(
    [...all].sort((a, b) => compare(a, b, facets)).map((one, rank) => [one, rank]),
  );
  return {
    label: "attack → defense",
    sort: (one) => ranks.get(one),
    cell: (one) => {
      const title = named(one, TITLE).join(" → ") || DASH;
      const rest = named(one, others).join(", ");
      return element("span", { class: "name" }, title, rest && element("small", {}, rest));
    },
  };
};

const MIXED = "(of different code, data or precision)";

/** A rate of a group, in percent. */
const rateColumn = (measure, label, span, warn = false) => ({
  label,
  span,
  number: true,
  sort: (group) => group.stat(measure).mean,
  cell: (group) => {
    const text = meanSd(group.stat(measure));
    return warn && group.forgot ? element("span", {}, text, warning(group)) : text;
  },
});

const countColumn = {
  label: "n",
  number: true,
  sort: (group) => group.runs.length,
  cell: (group) => String(group.runs.length),
};

const amountColumn = (measure, label) => ({
  label,
  number: true,
  sort: (group) => group.stat(measure).mean,
  cell: (group) => meanSd(group.stat(measure), amount),
});

/** What a defense was worth, the scores before and after it, and what it cost. */
const scoreColumns = () => [
  rateColumn("purified.der", "DER %"),
  ...["acc", "asr", "acc_target", "acc_worst", "ra"].flatMap((name) => [
    rateColumn(`victim.${name}`, "victim", `${SCORES[name]} %`),
    rateColumn(`purified.${name}`, "purified", `${SCORES[name]} %`, name === "acc_target"),
  ]),
  amountColumn("seconds", "seconds"),
  amountColumn("memory", "MB"),
];

/** Links to the pages of a group's runs. */
const runsColumn = {
  label: "runs",
  sort: (group) => group.runs.length,
  cell: (group) => {
    const links = group.runs.flatMap((run) => [
      element("a", { href: run.page, "aria-label": `run of seed ${seedsOf(run)}` }, seedsOf(run)),
      " ",
    ]);
    return element("span", { class: "links" }, ...links, group.mixed ? MIXED : "");
  },
};

const seedsOf = (run) =>
  SEEDS.map((facet) => valueOf(run, facet))
    .filter((text) => text !== DASH)
    .join("/");

const APART = varying(LAB.runs, EVERY);

const pageColumn = {
  label: "page",
  sort: (group) => group.runs[0].page,
  cell: (group) =>
    element(
      "a",
      { href: group.runs[0].page, "aria-label": `page of the run ${titleOf(group, APART)}` },
      "open",
    ),
};

const troubleColumns = (all) => [
  nameColumn(all, varying(all, EVERY)),
  { label: "state", cell: (one) => one.state, sort: (one) => one.state },
  {
    label: "why",
    cell: (one) => element("span", { class: "why" }, one.why || DASH),
    sort: (one) => one.why,
  },
  { label: "command", cell: (one) => element("code", {}, one.command), sort: (one) => one.command },
];
