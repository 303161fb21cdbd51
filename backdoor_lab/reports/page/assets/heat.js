"use strict";
// A heat map that is a table: attacks are columns, defenses with their data rows.

const SHADES = {
  "purified.der": {
    label: "DER",
    from: 0.5,
    to: 1,
    tone: "good",
    says: "50 % changes nothing, 100 % is perfect",
  },
  "purified.asr": { label: "ASR", from: 0, to: 1, tone: "bad", says: "low is good" },
  "purified.acc_target": {
    label: "accuracy on the target class",
    from: 0,
    to: 1,
    tone: "good",
    says: "high is good",
  },
};
const DOWN = ["defense", "aux", "calibration", "evaluation"];
const LIMIT = 20000; // cells; more are too slow to draw, and nobody reads them

/** Whether a facet is of one of these groups: `attack`, `attack.poison_rate`. */
const belongs = (facet, groups) => groups.includes(LAB.facets[facet].name.split(".")[0]);

/** The maps of a measure over `groups`, one for each data set, model, protocol... that differ. */
function showHeat(host, groups, measure) {
  const judged = groups.filter((group) => group.stat(measure).n > 0);
  if (judged.length === 0 || judged.length > LIMIT) {
    const why = judged.length ? "Too many to show at once: please filter." : "Nothing to show.";
    host.replaceChildren(element("p", { class: "note" }, why));
    return;
  }
  const facets = varying(judged, DECISIVE);
  const apart = facets.filter((facet) => !belongs(facet, ["attack", ...DOWN]));
  const maps = groupsOf(judged, apart).map((part) => heatTable(part, apart, measure));
  const { label, says } = SHADES[measure];
  const caption = `${label}, %: mean ± standard deviation (n); ${says}`;
  host.replaceChildren(element("p", { class: "note" }, caption), ...maps);
}

/** A table with a column for each attack; a cell is one group, never a mean over several. */
function heatTable(part, apart, measure) {
  const facets = varying(part.runs, DECISIVE);
  const [columns, rows] = [["attack"], DOWN].map((of) => {
    const named = [FACET.get(of[0]), ...facets.filter((facet) => belongs(facet, of))];
    return [...new Set(named)];
  });
  const [across, down] = [columns, rows].map((those) => keyed(part.runs, those));
  const cells = new Map(
    part.runs.map((group) => [`${keyOf(group, rows)}|${keyOf(group, columns)}`, group]),
  );
  const title = titleOf(part, apart);
  const head = [...across.values()].map((one) =>
    element("th", { scope: "col" }, titleOf(one, columns)),
  );
  const body = [...down].map(([row, first]) => {
    const name = element("th", { scope: "row" }, titleOf(first, rows));
    const held = [...across.keys()].map((column) =>
      heatCell(cells.get(`${row}|${column}`), measure),
    );
    return element("tr", {}, name, ...held);
  });
  const corner = element("th", { scope: "col" }, "defense");
  const table = element(
    "table",
    { class: "heat" },
    element("caption", {}, apart.length ? title : SHADES[measure].label),
    element("thead", {}, element("tr", {}, corner, ...head)),
    element("tbody", {}, ...body),
  );
  const region = { class: "scroll", tabindex: 0, role: "region", "aria-label": `Map: ${title}` };
  return element("div", region, table);
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
  const cell = element(
    "td",
    { class: `number shade ${tone}` },
    meanSd(stat),
    element("small", {}, ` (${stat.n})`),
  );
  cell.style.setProperty("--share", `${Math.round(60 * share)}%`);
  if (group.forgot) cell.append(warning(group));
  return cell;
}

/** A mark that is read out as well as seen. */
const warning = (group) => {
  const text = group.forgot;
  return element("abbr", { class: "forgot", title: text, role: "img", "aria-label": text }, " ✕");
};
