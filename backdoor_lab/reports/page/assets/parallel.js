"use strict";
// Parallel coordinates: choices and scores of all groups at once.

const UNDEFINED = -0.1; // where a line passes an axis on which it has no value

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
  const colours = dark.matches
    ? [
        [0, "#5a6470"],
        [0.5, "#5cb3ea"],
        [1, "#f6d55c"],
      ]
    : [
        [0, "#b9bec5"],
        [0.5, "#4a90c4"],
        [1, "#08306b"],
      ];
  const bar = { title: { text: "DER" }, tickformat: ".0%", thickness: 10, outlinewidth: 0 };
  const line = {
    color: rates.at(-1).values,
    cmin: 0.4,
    cmax: 1,
    colorscale: colours,
    showscale: true,
    colorbar: bar,
  };
  const ink = { color: paint("--ink"), size: 12 };
  const trace = {
    type: "parcoords",
    dimensions,
    line,
    labelfont: { ...ink, size: 13 },
    tickfont: ink,
    rangefont: { ...ink, color: "rgba(0,0,0,0)" },
  };
  const longest = Math.max(
    ...choices.flatMap((one) => one.ticktext.map((text) => text.length)),
    12,
  );
  const width = Math.min(8 * longest, 150) * dimensions.length;
  host.style.minWidth = `${Math.max(640, width)}px`;
  describe(host, `${plural(judged.length, "line")}; the means above have the numbers.`);
  return draw(
    host,
    [trace],
    { margin: { l: 8 * Math.min(longest, 20), r: 40, t: 48, b: 24 }, height: 440 },
    false,
  );
}

/** An axis whose ticks are the values that occur. */
function categories(groups, facet) {
  const codes = [...new Set(groups.map((group) => group.codes[facet]))].sort((a, b) => a - b);
  return {
    label: literal(LAB.facets[facet].name),
    values: groups.map((group) => codes.indexOf(group.codes[facet])),
    range: [-0.2, codes.length - 0.8],
    tickvals: codes.map((_, place) => place),
    ticktext: codes.map((code) => literal(shortened(LAB.facets[facet].values[code]))),
  };
}

/** A long name with its middle left out, so that it leaves its neighbour's room. */
const shortened = (text) => (text.length > 18 ? `${text.slice(0, 8)}…${text.slice(-9)}` : text);
