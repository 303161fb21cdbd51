"use strict";
// Numbers and names in words. Plain scripts, no modules: browsers load none of those from disk.

const DASH = "–";

const SCORES = {
  acc: "ACC",
  acc_target: "target",
  acc_worst: "worst",
  asr: "ASR",
  ra: "RA",
  der: "DER",
};

/** A fraction in percent: "91.4". */
const percent = (value) => (value === null ? DASH : (100 * value).toFixed(1));

/** Seconds or megabytes, with three digits that count. */
const amount = (value) => {
  if (value === null) return DASH;
  return value >= 100
    ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(3)));
};

/** Mean and, of several runs, standard deviation: "91.4 ± 0.3". */
function meanSd({ mean, sd }, words = percent) {
  return sd === null ? words(mean) : `${words(mean)} ± ${words(sd)}`;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** Plotly reads tags in its texts; those of records are shown as they are. */
const literal = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
