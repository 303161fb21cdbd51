"use strict";
// Filters, and what they change: every table and every figure.

const form = document.getElementById("filters");
const section = (id) => document.getElementById(id);
const inside = (id, selector) => section(id).querySelector(selector);

const means = new Table(inside("means", ".table"), "Means over seeds");
const single = new Table(inside("runs", ".table"), "Every run");
const lost = new Table(inside("troubles", ".table"), "Runs without a result");

const NONE = "No run fits these filters.";

/** The ticked values of each facet that has any. */
function ticked() {
  const found = new Map();
  for (const box of form.querySelectorAll("input:checked")) {
    const facet = Number(box.name);
    if (!found.has(facet)) found.set(facet, new Set());
    found.get(facet).add(Number(box.value));
  }
  return found;
}

/** What each section shows of the runs that are shown. */
const DRAWN = {
  trade: ({ groups }) => showTrade(inside("trade", ".figure"), groups, colouring()),
  means: ({ groups }) => {
    const name = nameColumn(groups, varying(groups, DECISIVE));
    means.show([name, countColumn, ...scoreColumns(), runsColumn], groups, NONE);
  },
  heat: ({ groups }) => showHeat(inside("heat", ".table"), groups, section("measure").value),
  sweeps: ({ sweeps }) => showSweeps(inside("sweeps", ".plots"), sweeps),
  costs: ({ groups }) => {
    for (const host of section("costs").querySelectorAll(".figure"))
      showCosts(host, groups, colouring());
  },
  parallel: ({ groups }) => showParallel(inside("parallel", ".figure"), groups),
  runs: ({ runs }) => {
    const each = runs.map((run) => Object.assign(new Group(run.codes), { runs: [run] }));
    const name = nameColumn(each, varying(each, DECISIVE));
    single.show([name, ...facetColumns(SEEDS), ...scoreColumns(), pageColumn], each, NONE);
  },
  troubles: ({ troubles }) => lost.show(troubleColumns(troubles), troubles, "None here."),
};

const colouring = () => Number(section("colour").value);
let shown = { runs: [], groups: [], sweeps: [], troubles: [] };
const stale = new Set(); // sections that do not show yet what they ought to
const FIGURES = ["trade", "sweeps", "costs", "parallel"]; // drawn when they come near
const near = new Set();
let drawing = null;

/** Draw the next section, and then the others, each when the page has answered its reader. */
function drawNext() {
  const ids = [...stale];
  const id = ids.find((one) => !FIGURES.includes(one)) ?? ids.find((one) => near.has(one));
  drawing = null;
  if (id === undefined) return fetchPlotly();
  stale.delete(id);
  DRAWN[id](shown);
  drawing = setTimeout(drawNext);
}

/** Once the tables can be read: it takes seconds. Figures are drawn from then on. */
function fetchPlotly() {
  if (document.readyState !== "complete") return addEventListener("load", fetchPlotly);
  if (section("plotly")) return;
  performance.mark("tables");
  const script = element("script", { id: "plotly", src: section("plotly-file").href });
  script.addEventListener("load", () => FIGURES.forEach((id) => watch.observe(section(id))));
  document.head.append(script);
}

const watch = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries)
      isIntersecting ? near.add(target.id) : near.delete(target.id);
    if (near.size && drawing === null) drawNext();
  },
  { rootMargin: "50% 0px" },
);

function update() {
  const wanted = ticked();
  const runs = LAB.runs.filter((run) => fits(run, wanted));
  const groups = groupsOf(runs);
  shown = {
    runs,
    groups,
    sweeps: sweepsOf(groups),
    troubles: LAB.troubles.filter((one) => fits(one, wanted)),
  };
  section("sweeps").hidden = section("to-sweeps").hidden = shown.sweeps.length === 0;
  const all = plural(LAB.runs.length, "run");
  const rows = plural(groups.length, "row");
  const failed = shown.troubles.length ? `; ${shown.troubles.length} without a result` : "";
  section("count").textContent =
    `Shown: ${runs.length.toLocaleString("en")} of ${all}, ${rows} of means${failed}.`;
  redraw();
}

function redraw(ids = Object.keys(DRAWN)) {
  ids.filter((id) => !section(id).hidden).forEach((id) => stale.add(id));
  clearTimeout(drawing);
  drawNext();
}

/** Choices of the two selects. */
function offer() {
  const apart = DECISIVE.filter((facet) => LAB.facets[facet].values.length > 1);
  const facets = apart.length ? apart : DECISIVE;
  for (const facet of facets)
    section("colour").append(element("option", { value: facet }, LAB.facets[facet].name));
  if (facets.includes(FACET.get("defense"))) section("colour").value = FACET.get("defense");
  for (const [name, { label }] of Object.entries(SHADES))
    section("measure").append(element("option", { value: name }, label));
}

function start() {
  offer();
  section("folding").open = matchMedia("(min-width: 60rem)").matches;
  form.addEventListener("change", update);
  form.addEventListener("reset", () => setTimeout(update)); // when the boxes are empty
  form.addEventListener("submit", (event) => event.preventDefault());
  section("colour").addEventListener("change", () => redraw(["trade", "costs"]));
  section("measure").addEventListener("change", () => redraw(["heat"]));
  dark.addEventListener("change", () => redraw());
  update();
}

start();
