/** The threshold, and what it costs over the images seen so far. */

import type { About } from './about';
import { byId, counted, madds, make, percent, tell } from './page';
import type { Tally } from './tally';

const BARS = 40;
/** The slider's end, at which even a confidence of 1 waits. */
const ALWAYS = 1.01;

/** The slider and its buttons; `changed` is called for every new threshold. */
export class Dial {
  threshold: number;
  private readonly slider = byId<HTMLInputElement>('threshold');

  constructor(private readonly about: About, changed: () => void) {
    this.threshold = about.threshold;
    this.slider.addEventListener('input', () => {
      this.threshold = Number(this.slider.value);
      this.show();
      changed();
    });
    byId('reset').addEventListener('click', () => {
      this.reset();
      changed();
      this.slider.focus();  // The button is disabled now and would lose the focus.
    });
    tell(byId('reset'), `Back to ${named(about.threshold)}, as exported`);
    const { chosen } = about;
    if (chosen && chosen.exit_rate > 0) {
      byId('heldout').hidden = false;
      tell(byId('heldout'), `At ${named(about.threshold)}, as exported, ${percent(chosen.exit_rate)} `
        + `of ${counted(chosen.images, 'held-out image')} of ${chosen.data} ended early, `
        + `for ${madds(chosen.average_madds)} MAdds on average.`);
    }
    tell(byId('least'), `lightweight alone ${madds(about.madds.first)}`);
    tell(byId('most'), `both ${madds(about.madds.all)}`);
    this.reset();
  }

  private reset(): void {
    // The slider has steps, the exported threshold has none.
    this.threshold = this.about.threshold;
    this.slider.value = String(Math.min(this.threshold, ALWAYS));
    this.show();
  }

  private show(): void {
    tell(byId('threshold-value'), named(this.threshold));
    byId<HTMLButtonElement>('reset').disabled = this.threshold === this.about.threshold;
  }
}

function named(threshold: number): string {
  if (threshold <= 0) return 'never wait';
  return threshold > 1 ? 'always wait' : threshold.toFixed(3);
}

export function showCost(tally: Tally, threshold: number, about: About): void {
  const { images, early, average } = tally.cost(threshold);
  const all = about.madds.all;
  tell(byId('images'), images.toLocaleString('en'));
  tell(byId('early'), images ? percent(early) : '–');
  tell(byId('average'), images ? madds(average) : '–');
  tell(byId('saved'), images ? percent(1 - average / all) : '–');
  byId<HTMLButtonElement>('clear').disabled = images === 0;
  byId('threshold').setAttribute('aria-valuetext', named(threshold)
    + (images ? `, ${madds(average)} MAdds on average` : ''));

  const scale = byId('scale');
  const share = average / all;
  const marker = make('span', 'marker');
  marker.style.left = `${share * 100}%`;
  const fill = make('span', 'fill');
  fill.style.width = `${share * 100}%`;
  const least = make('span', 'least');
  least.style.left = `${(about.madds.first / all) * 100}%`;
  scale.replaceChildren(...(images ? [fill, least, marker] : [least]));
  scale.ariaLabel = images
    ? `Average cost ${madds(average)} MAdds, ${percent(1 - share)} less than always waiting for `
      + `the specialist; from ${madds(about.madds.first)} to ${madds(all)}.`
    : `From ${madds(about.madds.first)} MAdds for the lightweight model alone to ${madds(all)} for both.`;
  showHistogram(tally.histogram(BARS, threshold));
}

function showHistogram(counts: [number, number][]): void {
  const sums = counts.map(([late, early]) => late + early);
  const most = Math.max(...sums, 1);
  byId('histogram').replaceChildren(...counts.map((count, i) => {
    const bar = make('span', '', ...['second', 'first'].map((name, who) => {
      const part = make('span', name);
      part.style.flexGrow = String(count[who]);
      return part;
    }));
    bar.style.height = `${(sums[i] / most) * 100}%`;
    return bar;
  }));
  const total = (some: number[]) => some.reduce((a, b) => a + b, 0);
  byId('histogram').ariaLabel = `How confident the first predictions were: of `
    + `${counted(total(sums), 'image')}, ${total(sums.slice(Math.floor(BARS * 0.9)))} above 0.9, `
    + `${total(sums.slice(0, BARS / 2))} below 0.5.`;
}
