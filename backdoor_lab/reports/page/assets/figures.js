"use strict";
// What each defense kept and removed, and what it cost.

const RATE = { range: [-0.03, 1.03], tickformat: ".0%", dtick: 0.25 };

/** An arrow from victim to purified model for each group. */
function showTrade(host, groups, facet) {
  const judged = groups.filter(
    (group) => group.stat("purified.asr").n && group.stat("victim.asr").n,
  );
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
  describe(host, `${plural(judged.length, "arrow")}; the means below have the numbers.`);
  const note = left
    ? {
        text: `${plural(left, "row")} of the means without an ASR`,
        showarrow: false,
        xref: "paper",
        yref: "paper",
        x: 1,
        y: 1,
        yanchor: "bottom",
        font: { size: 12, color: paint("--faint") },
      }
    : null;
  return draw(host, traces, {
    height: 500,
    margin: { l: 56, r: 16, t: 24, b: 48 },
    xaxis: axis("ASR", RATE),
    yaxis: axis("ACC", { tickformat: ".0%" }),
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
  const change = (name) =>
    `${percent(group.stat(`victim.${name}`).mean)} → ${meanSd(group.stat(`purified.${name}`))}`;
  const rates = ["acc", "asr", "acc_target", "acc_worst"].map(
    (name) => `${SCORES[name]} ${change(name)}`,
  );
  const der = `DER ${meanSd(group.stat("purified.der"))}`;
  const forgot = group.forgot ? `; ${group.forgot}` : "";
  const last = `${plural(group.runs.length, "run")}${forgot}`;
  return [`<b>${literal(titleOf(group, facets))}</b>`, ...rates, der, last].join("<br>");
}

/** DER against seconds or memory. */
function showCosts(host, groups, facet) {
  const measure = host.dataset.x;
  const judged = groups.filter(
    (group) => group.stat(measure).mean > 0 && group.stat("purified.der").n,
  );
  const unit = { seconds: "s", memory: "MB" }[measure];
  const title = { seconds: "seconds of the defense", memory: "MB that the defense held at most" }[
    measure
  ];
  if (judged.length === 0) return nothing(host, `No run here has a DER and ${title}.`);
  const facets = varying(groups, DECISIVE);
  const traces = series(judged, facet).map(({ name, groups: part, colour, symbol }) => ({
    name,
    mode: "markers",
    x: part.map((group) => group.stat(measure).mean),
    y: part.map((group) => group.stat("purified.der").mean),
    text: part.map(
      (group) => `${hover(group, facets)}<br>${amount(group.stat(measure).mean)} ${unit}`,
    ),
    hovertemplate: "%{text}<extra></extra>",
    marker: {
      color: colour,
      symbol: part.map((group) => (group.forgot ? "x" : symbol)),
      size: 9,
      opacity: 0.8,
    },
  }));
  describe(host, `DER against ${title}; the means above have the numbers.`);
  return draw(host, traces, {
    xaxis: logAxis(
      title,
      judged.map((group) => group.stat(measure).mean),
    ),
    yaxis: axis("DER", { tickformat: ".0%" }),
  });
}
