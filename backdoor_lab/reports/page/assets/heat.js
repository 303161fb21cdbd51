"use strict";
// A heat map that is a table: attacks are columns, defenses with their data rows.

const SHADES = {
  "purified.der": { label: "DER", from: 0.5, to: 1, tone: "good", says: "50 % changes nothing, 100 % is perfect" },
  "purified.asr": { label: "ASR", from: 0, to: 1, tone: "bad", says: "low is good" },
  "purified.acc_target": { label: "accuracy on the target class", from: 0, to: 1, tone: "good", says: "high is good" },
};
const OF_ATTACK = ["dataset", "model", "attack", "recipe", "protocol", "victim"];
const LIMIT = 20000; // cells; more are too slow to draw, and nobody reads them

/** Whether a facet belongs to the victim's side: `attack`, `attack.poison_rate`, `dataset`. */
const ofAttack = (facet) => OF_ATTACK.includes(LAB.facets[facet].name.split(".")[0]);

/** The map of a measure over `groups`; a cell is one group, never a mean over several. */
function showHeat(host, groups, measure) {
  const judged = groups.filter((group) => group.stat(measure).n > 0);
  const facets = varying(judged, DECISIVE);
  const columns = facets.filter(ofAttack);
  const rows = facets.filter((facet) => !ofAttack(facet));
  const across = keyed(judged, columns);
  const down = keyed(judged, rows);
  if (judged.length === 0 || across.size * down.size > LIMIT) {
    const why = judged.length ? "Too many to show at once: please filter." : "Nothing to show.";
    host.replaceChildren(element("p", { class: "note" }, why));
    return;
  }
  const { label, says } = SHADES[measure];
  const caption = `${label}, %: mean ± standard deviation (n); ${says}`;
  const cells = new Map(judged.map((group) => [`${keyOf(group, rows)}|${keyOf(group, columns)}`, group]));
  const head = [...across.values()].map((group) => element("th", { scope: "col" }, titleOf(group, columns)));
  const corner = element("th", { scope: "col" }, rows.map((facet) => LAB.facets[facet].name).join(", ") || "all");
  const body = [...down].map(([row, first]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, titleOf(first, rows)),
      ...[...across.keys()].map((column) => heatCell(cells.get(`${row}|${column}`), measure)),
    ),
  );
  const table = element(
    "table",
    { class: "heat" },
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, corner, ...head)),
    element("tbody", {}, ...body),
  );
  const region = { class: "scroll", tabindex: 0, role: "region", "aria-label": caption };
  host.replaceChildren(element("div", region, table));
}

const keyOf = (group, facets) => facets.map((facet) => group.codes[facet]).join();

/** The first group of each key, in the order of the facets' values. */
function keyed(groups, facets) {
  const sorted = [...groups].sort((one, other) => compare(one, other, facets));
  const found = new Map();
  for (const group of sorted) {
    const key = keyOf(group, facets);
    if (!found.has(key)) found.set(key, group);
  }
  return found;
}

function heatCell(group, measure) {
  if (!group) return element("td", { class: "number" }, DASH);
  const { from, to, tone } = SHADES[measure];
  const stat = group.stat(measure);
  const share = Math.min(1, Math.max(0, (stat.mean - from) / (to - from)));
  const cell = element("td", { class: `number shade ${tone}` }, meanSd(stat), element("small", {}, ` (${stat.n})`));
  cell.style.setProperty("--share", `${Math.round(60 * share)}%`);
  if (group.forgot) cell.append(warning());
  return cell;
}

/** A mark that is read out as well as seen. */
const warning = () => {
  const text = "a class was forgotten";
  return element("abbr", { class: "forgot", title: text, role: "img", "aria-label": text }, " ✕");
};
