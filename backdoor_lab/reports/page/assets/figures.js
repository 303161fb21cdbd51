"use strict";
// The figures over all groups: what was kept and removed, what it cost, all at once.

const UNDEFINED = -0.1; // where a line passes an axis on which it has no value
const RATE = { range: [-0.03, 1.03], tickformat: ".0%", dtick: 0.25 };

/** An arrow from victim to purified model for each group. */
function showTrade(host, groups, facet) {
  const judged = groups.filter((group) => group.stat("purified.asr").n && group.stat("victim.asr").n);
  if (judged.length === 0) return nothing(host, "No run here has an ASR before and after.");
  const facets = varying(groups, DECISIVE);
  const traces = series(judged, facet).map(({ name, groups: part, colour, symbol, dash }) => {
    const points = part.flatMap((group) => arrow(group, facets, symbol));
    return {
      name,
      mode: "lines+markers",
      x: points.map((point) => point.x),
      y: points.map((point) => point.y),
      text: points.map((point) => point.text),
      hovertemplate: "%{text}<extra></extra>",
      line: { color: colour, width: 1, dash },
      opacity: 0.85,
      marker: {
        color: colour,
        symbol: points.map((point) => point.symbol),
        size: points.map((point) => point.size),
        angleref: "previous",
      },
    };
  });
  const left = groups.length - judged.length;
  describe(host, `${plural(judged.length, "arrow")} from victim to purified model; the means below have the numbers.`);
  const note = left ? { text: `${plural(left, "row")} of the means without an ASR`, showarrow: false, xref: "paper", yref: "paper", x: 1, y: 1, yanchor: "bottom", font: { size: 12, color: paint("--faint") } } : null;
  return draw(host, traces, {
    height: 500,
    margin: { l: 56, r: 16, t: 24, b: 48 },
    xaxis: axis("ASR: triggered images that get the attacker's class", RATE),
    yaxis: axis("ACC: clean images that get their class", { tickformat: ".0%" }),
    annotations: note ? [note] : [],
  });
}

/** Two points and a gap. */
function arrow(group, facets, symbol) {
  const [x0, y0] = ["victim.asr", "victim.acc"].map((name) => group.stat(name).mean);
  const [x, y] = ["purified.asr", "purified.acc"].map((name) => group.stat(name).mean);
  const text = hover(group, facets);
  const still = x === x0 && y === y0;
  const head = group.forgot ? "x" : still ? symbol : "arrow";
  return [
    { x: x0, y: y0, text, symbol: `${symbol}-open`, size: 6 },
    { x, y, text, symbol: head, size: group.forgot ? 9 : 11 },
    { x: null, y: null, text: "", symbol, size: 0 },
  ];
}

/** A group in a few lines. */
function hover(group, facets) {
  const change = (name) => `${percent(group.stat(`victim.${name}`).mean)} → ${meanSd(group.stat(`purified.${name}`))}`;
  const rates = ["acc", "asr", "acc_target", "acc_worst"].map((name) => `${SCORES[name]} ${change(name)}`);
  const der = `DER ${meanSd(group.stat("purified.der"))}`;
  const last = `${plural(group.runs.length, "run")}${group.forgot ? "; a class was forgotten" : ""}`;
  return [`<b>${literal(titleOf(group, facets))}</b>`, ...rates, der, last].join("<br>");
}

/** DER against seconds or memory. */
function showCosts(host, groups, facet) {
  const measure = host.dataset.x;
  const judged = groups.filter((group) => group.stat(measure).mean > 0 && group.stat("purified.der").n);
  const title = { seconds: "seconds of the defense", memory: "MB that the defense held at most" }[measure];
  if (judged.length === 0) return nothing(host, `No run here has a DER and ${title}.`);
  const facets = varying(groups, DECISIVE);
  const traces = series(judged, facet).map(({ name, groups: part, colour, symbol }) => ({
    name,
    mode: "markers",
    x: part.map((group) => group.stat(measure).mean),
    y: part.map((group) => group.stat("purified.der").mean),
    text: part.map((group) => `${hover(group, facets)}<br>${amount(group.stat(measure).mean)} ${measure === "memory" ? "MB" : "s"}`),
    hovertemplate: "%{text}<extra></extra>",
    marker: { color: colour, symbol: part.map((group) => (group.forgot ? "x" : symbol)), size: 9, opacity: 0.8 },
  }));
  describe(host, `DER against ${title}; the means above have the numbers.`);
  const ticks = { type: "log", dtick: "D2", exponentformat: "none", minexponent: 6 };
  return draw(host, traces, {
    xaxis: axis(title, ticks),
    yaxis: axis("DER", { tickformat: ".0%" }),
  });
}

/** A line for each group across its choices and its scores. */
function showParallel(host, groups) {
  const judged = groups.filter((group) => group.stat("purified.der").n);
  if (judged.length === 0) return nothing(host, "No run here has a DER.");
  const choices = varying(judged, DECISIVE).map((facet) => categories(judged, facet));
  const rates = ["acc", "asr", "acc_target", "acc_worst", "der"].map((name) => ({
    label: SCORES[name],
    values: judged.map((group) => group.stat(`purified.${name}`).mean ?? UNDEFINED),
    range: [UNDEFINED, 1],
    tickvals: [UNDEFINED, 0, 0.25, 0.5, 0.75, 1],
    ticktext: [DASH, "0%", "25%", "50%", "75%", "100%"],
  }));
  const dimensions = [...choices, ...rates];
  const colours = dark.matches ? [[0, "#5a6470"], [0.5, "#5cb3ea"], [1, "#f6d55c"]] : [[0, "#b9bec5"], [0.5, "#4a90c4"], [1, "#08306b"]];
  const bar = { title: { text: "DER" }, tickformat: ".0%", thickness: 10, outlinewidth: 0 };
  const line = { color: rates.at(-1).values, cmin: 0.4, cmax: 1, colorscale: colours, showscale: true, colorbar: bar };
  const ink = { color: paint("--ink"), size: 12 };
  const trace = { type: "parcoords", dimensions, line, labelfont: { ...ink, size: 13 }, tickfont: ink, rangefont: { ...ink, color: "rgba(0,0,0,0)" } };
  host.style.minWidth = `${Math.max(640, 110 * dimensions.length)}px`;
  describe(host, `${plural(judged.length, "line")}; the means above have the numbers.`);
  return draw(host, [trace], { margin: { l: 90, r: 40, t: 48, b: 24 }, height: 440 });
}

/** An axis whose ticks are the values that occur. */
function categories(groups, facet) {
  const codes = [...new Set(groups.map((group) => group.codes[facet]))].sort((a, b) => a - b);
  return {
    label: literal(LAB.facets[facet].name),
    values: groups.map((group) => codes.indexOf(group.codes[facet])),
    range: [-0.2, codes.length - 0.8],
    tickvals: codes.map((_, place) => place),
    ticktext: codes.map((code) => literal(LAB.facets[facet].values[code])),
  };
}
