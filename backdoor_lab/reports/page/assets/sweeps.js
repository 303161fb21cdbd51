"use strict";
// A figure for each value that was swept, such as defense.k or attack.poison_rate.

/** What groups have swept, by setting and by what that belongs to: defense.k of each defense. */
function sweepsOf(groups) {
  const settings = DECISIVE.filter((facet) => LAB.facets[facet].kind === "setting");
  return varying(groups, settings).flatMap((facet) => {
    const { name } = LAB.facets[facet];
    const owner = FACET.get(name.split(".")[0]);
    const parts = owner === undefined ? [{ runs: groups }] : groupsOf(groups, [owner]);
    const others = DECISIVE.filter((other) => other !== facet);
    return parts.flatMap((part) => {
      const lines = groupsOf(part.runs, others).filter((line) => line.runs.length > 1);
      const title = owner === undefined ? name : `${valueOf(part, owner)}: ${name}`;
      return lines.length ? [{ title, facet, lines, apart: varying(lines, others) }] : [];
    });
  });
}

/** A figure and its table for each sweep. */
function showSweeps(host, sweeps) {
  host.querySelectorAll(".figure").forEach((figure) => Plotly.purge(figure));
  host.replaceChildren();
  for (const sweep of sweeps) {
    const figure = element("div", { class: "figure" });
    const table = element("div", { class: "table" });
    const folded = element("details", {}, element("summary", {}, "The numbers"), table);
    host.append(element("h3", {}, sweep.title), figure, folded);
    drawSweep(figure, sweep);
    tabulateSweep(table, sweep);
  }
}

/** ACC as a line, ASR as a dashed one, over the values; a colour for each line. */
function drawSweep(host, { title, facet, lines, apart }) {
  const palette = dark.matches ? DARK : LIGHT;
  const codes = [
    ...new Set(lines.flatMap((line) => line.runs.map((group) => group.codes[facet]))),
  ].sort((a, b) => a - b);
  const texts = codes.map((code) => LAB.facets[facet].values[code]);
  const numbers = texts.every((text) => text !== "" && Number.isFinite(Number(text)));
  const traces = lines.flatMap((line, place) =>
    [
      ["acc", "solid"],
      ["asr", "dash"],
    ].map(([name, dash]) => {
      const stats = line.runs.map((group) => group.stat(`purified.${name}`));
      const values = line.runs.map((group) => valueOf(group, facet));
      return {
        name: `${SCORES[name]}${apart.length ? `, ${literal(titleOf(line, apart))}` : ""}`,
        mode: "lines+markers",
        x: numbers ? values.map(Number) : values.map(literal),
        y: stats.map((stat) => stat.mean),
        error_y: { array: stats.map((stat) => stat.sd ?? 0), thickness: 1, width: 3 },
        line: { color: palette[place % palette.length], dash },
        marker: { size: 7, symbol: name === "acc" ? "circle" : "circle-open" },
        hovertemplate: `%{x}: %{y:.1%}<extra>${SCORES[name]}</extra>`,
      };
    }),
  );
  const wide = numbers && Math.min(...texts) > 0 && Math.max(...texts) / Math.min(...texts) >= 50;
  const ordered = { type: "category", categoryorder: "array", categoryarray: texts.map(literal) };
  const scale = numbers
    ? { type: wide ? "log" : "linear", tickvals: texts.length <= 12 ? texts.map(Number) : null }
    : ordered;
  describe(host, `ACC and ASR over ${title}; the table below has the numbers.`);
  draw(host, traces, {
    height: 320,
    xaxis: axis(literal(LAB.facets[facet].name), scale),
    yaxis: axis("", RATE),
  });
}

function tabulateSweep(host, { title, facet, lines, apart }) {
  const groups = lines.flatMap((line) => line.runs);
  const rates = ["acc", "asr", "acc_target", "acc_worst", "der"].map((name) =>
    rateColumn(`purified.${name}`, `${SCORES[name]} %`),
  );
  new Table(host, title).show(
    [...facetColumns([...apart, facet]), countColumn, ...rates],
    groups,
    "",
  );
}
