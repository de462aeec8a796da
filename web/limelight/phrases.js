// Likely phrases of a prompt, to be offered as names: what stands between commas and small words.

const BETWEEN = /[,.;:|\n()[\]{}<>]+|\b(?:and|with|on|in|at|of|to|by|from|under|over|above|below|beside|near|behind|next|left|right|is|are|has|wearing|holding|standing|sitting|BREAK)\b/giu;
const ARTICLE = /^(?:(?:an?|the|some|two|three|four|its|his|her|their)\s+)+/iu;
const MOST = 24;

/** -> at most 24 phrases of 1 to 6 words, in order, none twice. */
export function phrasesOf(prompt) {
  const found = new Map();
  for (const part of prompt.slice(0, 20000).split(BETWEEN)) {
    const phrase = part.replace(/[\d.]*$/u, "").trim().replace(ARTICLE, "").trim();
    const words = phrase.split(/\s+/).length;
    if (phrase.length > 1 && words <= 6 && !found.has(phrase.toLowerCase())) found.set(phrase.toLowerCase(), phrase);
  }
  return [...found.values()].slice(0, MOST);
}
