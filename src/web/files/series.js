// The points of the last hours, in columns, with the same bounds as the server's: memory stays as it is.

const FINE = 900;
const COARSE = 960;
const STRIDE = 30;
/** A longer silence is shown as a gap. */
const GAP = 5000;

export class Series {
  names = new Map();
  #fine = { at: [], values: [] };
  #coarse = { at: [], values: [] };

  /** What the server has kept: everything, or what came since this page last heard of it. */
  take({ names, coarse, fine, continues }) {
    if (!continues) {
      this.names = new Map(names.map((name, index) => [name, index]));
      const empty = () => ({ at: [], values: names.map(() => []) });
      [this.#fine, this.#coarse] = [empty(), empty()];
    }
    append(this.#coarse, coarse, COARSE);
    append(this.#fine, fine, FINE);
  }

  add({ number, at, values }) {
    const one = { at: [at], values: values.map((value) => [value]) };
    if (number % STRIDE === 0) append(this.#coarse, one, COARSE);
    append(this.#fine, one, FINE);
  }

  /** Columns for a plot: seconds since 1970, then the series of these names, of the last `seconds`. */
  columns(names, seconds) {
    const { at } = this.#fine;
    const end = at.length ? at[at.length - 1] : 0;
    const begin = end - 1000 * seconds;
    const out = [[], ...names.map(() => [])];
    const indices = names.map((name) => this.names.get(name));
    let before = null;
    const put = (from, until, gap, joint = gap) => {
      let most = joint;
      for (let n = 0; n < from.at.length; n += 1) {
        const when = from.at[n];
        if (when < begin || when >= until) continue;
        if (before !== null && when - before > most) {
          out[0].push((before + 1) / 1000);
          for (let k = 1; k < out.length; k += 1) out[k].push(null);
        }
        out[0].push(when / 1000);
        indices.forEach((index, k) => out[k + 1].push(index === undefined ? null : from.values[index][n]));
        before = when;
        most = gap;
      }
    };
    const sparse = 3 * STRIDE * 1000;
    // The server's coarse points reach into the time of the fine ones, for when those are gone.
    put(this.#coarse, at.length ? at[0] : Infinity, sparse);
    put(this.#fine, Infinity, GAP, sparse);
    return out;
  }

  latest(name) {
    const column = this.#fine.values[this.names.get(name)];
    return column?.length ? column[column.length - 1] : null;
  }

  /** Points that are kept. */
  get size() {
    return this.#fine.at.length + this.#coarse.at.length;
  }
}

function append(to, from, most) {
  to.at.push(...from.at);
  from.values.forEach((column, index) => to.values[index].push(...column));
  const over = to.at.length - most;
  if (over <= 0) return;
  to.at.splice(0, over);
  to.values.forEach((column) => column.splice(0, over));
}
