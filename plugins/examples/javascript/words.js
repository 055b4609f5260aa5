// Ranks documents by the words that they share with the query. Rare words count more.
//
// State is kept in the module: the host takes a snapshot of it after `commit`, and every instance starts from that.

const postings = new Map();
let documents = 0;
let ready = false;

const words = (text) => text.toLowerCase().split(/[^a-z0-9\u00c0-\u024f]+/).filter(Boolean);

const tally = (list) => {
  const counts = new Map();
  for (const word of list) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
};

export const recommender = {
  describe() {
    return { name: 'words-javascript', version: '0.1.0', languages: ['plain'], fields: [], readsHistory: false };
  },

  load(batch) {
    for (const { item, fields } of batch) {
      documents += 1;
      for (const [word, count] of tally(fields.flatMap(({ value }) => words(value)))) {
        if (!postings.has(word)) postings.set(word, []);
        postings.get(word).push([item, count]);
      }
    }
  },

  commit() {
    ready = true;
  },

  recommend(requests) {
    return requests.map(answer);
  },
};

function answer({ text, exclude, k }) {
  if (!ready) return { tag: 'err', val: { tag: 'not-ready' } };
  const scores = new Map();
  for (const word of new Set(words(text))) {
    const found = postings.get(word) ?? [];
    const weight = Math.log((documents + 1) / (found.length + 0.5));
    for (const [item, count] of found) {
      scores.set(item, (scores.get(item) ?? 0) + (weight * count) / (count + 1.2));
    }
  }
  const excluded = new Set(exclude);
  const hits = [...scores].filter(([item]) => !excluded.has(item));
  hits.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return { tag: 'ok', val: hits.slice(0, k).map(([item, score]) => ({ item, score })) };
}
