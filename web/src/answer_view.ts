/** The answer: the likeliest labels, which stage answered, why, and how long it took. */

import type { About } from './about';
import type { First, Stage } from './messages';
import { byId, madds, make, milliseconds, percent, tell } from './page';
import { endsEarly } from './tally';

const MOST = 5;
/** Milliseconds between announcements: with the camera, screen readers would never finish one. */
const PAUSE = 2000;

let announced = -Infinity;

/** What is known about a photo; the second stage only if it ran. */
export interface Looked {
  first: First;
  second: Stage | null;
}

/** @param clockStep step of the clock that timed the stages, milliseconds. */
export function showAnswer(
  { first, second }: Looked, threshold: number, about: About, clockStep: number,
): void {
  const { stages, labels } = about;
  const early = endsEarly(first.confidence, threshold);
  const answer = stages.length === 1 || early ? first : second!;
  const order = likeliest(answer.probabilities);
  const [best] = order;

  byId('nothing').hidden = true;
  byId('told').hidden = false;
  tell(byId('label'), labels[best]);
  tell(byId('share'), percent(answer.probabilities[best]));

  const badge = byId('badge');
  badge.className = answer === first ? 'first' : 'second';
  badge.hidden = stages.length === 1;
  tell(badge, answer === first ? 'Lightweight: ended early' : 'Specialist');
  byId('why').hidden = stages.length === 1;
  tell(byId('why'), why(first, answer, threshold, labels));

  byId('likeliest').replaceChildren(
    ...order.map((i) => bar(labels[i], answer.probabilities[i], answer === first)));
  byId('times').replaceChildren(...times(first, answer, about, clockStep));
  announce(`${labels[best]}, ${percent(answer.probabilities[best])}.`
    + (stages.length === 1 ? ''
      : ` The ${answer === first ? 'lightweight model' : 'specialist'} answered.`));
}

function likeliest(probabilities: Float32Array): number[] {
  return Array.from(probabilities.keys())
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, MOST);
}

function why(first: First, answer: Stage, threshold: number, labels: string[]): string {
  const sure = first.confidence.toFixed(3);
  if (answer === first) {
    return threshold <= 0
      ? `Its confidence is ${sure}; nobody waits for the specialist.`
      : `Its confidence of ${sure} is enough: the threshold is ${threshold.toFixed(3)}.`;
  }
  const [guess] = likeliest(first.probabilities);
  let reason = `less than the threshold of ${threshold.toFixed(3)}`;
  if (Number.isNaN(first.confidence)) reason = 'that is no number';
  else if (threshold > 1) reason = 'everyone waits for the specialist';
  return `The lightweight model said ${labels[guess]}, with a confidence of ${sure}: ${reason}.`;
}

function bar(label: string, probability: number, first: boolean): HTMLElement {
  const fill = make('span', first ? 'fill first' : 'fill second');
  fill.style.width = `${probability * 100}%`;
  const track = make('span', 'track', fill);
  track.ariaHidden = 'true';
  return make('li', '', make('span', 'name', label), make('span', 'value', percent(probability)),
    track);
}

function times(
  first: First, answer: Stage, { stages, madds: cost }: About, clockStep: number,
): HTMLElement[] {
  const fact = (name: string, value: string) =>
    make('div', '', make('dt', '', name), make('dd', '', value));
  const time = (stage: Stage) => milliseconds(stage.milliseconds, clockStep);
  if (stages.length === 1) return [fact('Time', time(first)), fact('MAdds', madds(cost.all))];
  return [
    fact('Lightweight', time(first)),
    fact('Specialist', answer === first ? 'not run' : time(answer)),
    fact('MAdds', madds(answer === first ? cost.first : cost.all)),
  ];
}

function announce(text: string): void {
  const now = performance.now();
  if (now - announced < PAUSE && byId('camera').dataset.on === 'true') return;
  announced = now;
  tell(byId('said'), text);
}
