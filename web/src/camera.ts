/** The camera: frame after frame, as fast as they are processed. */

import { byId } from './page';
import { Sentence } from './sentence';

const REASONS: Record<string, string> = {
  NotAllowedError: 'The camera was not allowed: allow it in the browser’s settings of this page.',
  NotFoundError: 'No camera was found.',
  OverconstrainedError: 'No camera was found.',  // WebKit's word where there is none at all.
  NotReadableError: 'The camera is in use by another program.',
};

export class Camera {
  private stream: MediaStream | null = null;
  /** How often it was stopped, which can happen while the visitor is still being asked. */
  private stops = 0;
  private readonly video = byId<HTMLVideoElement>('video');

  get on(): boolean {
    return this.stream !== null;
  }

  /**
   * @param look is awaited before the next frame is taken.
   * @param gone is called if the camera ends by itself, as when it is unplugged.
   * @returns whether it runs: if not, it was stopped meanwhile.
   * @throws Sentence: there is no camera, or it is not allowed.
   */
  async start(look: (frame: ImageBitmap) => Promise<void>, gone: () => void): Promise<boolean> {
    if (!navigator.mediaDevices) {
      throw new Sentence('The camera needs a page from https or from this computer (localhost).');
    }
    const { stops } = this;
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    } catch (error) {
      throw new Sentence(REASONS[(error as Error).name] ?? 'The camera did not start.');
    }
    if (stops !== this.stops) {
      stream.getTracks().forEach((track) => track.stop());
      return false;
    }
    this.stream = stream;
    stream.getTracks().forEach((track) => track.addEventListener('ended', gone));
    this.video.srcObject = stream;
    try {
      await this.video.play();
    } catch (error) {
      if (stops !== this.stops) return false;
      throw error;
    }
    void this.run(stream, look);
    return true;
  }

  stop(): void {
    this.stops++;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = this.video.srcObject = null;
  }

  private async run(
    stream: MediaStream, look: (frame: ImageBitmap) => Promise<void>,
  ): Promise<void> {
    // Each pass waits for the screen: a hidden page processes nothing.
    while (this.stream === stream) {
      await new Promise(requestAnimationFrame);
      if (this.stream !== stream) return;
      if (this.video.readyState < this.video.HAVE_CURRENT_DATA) continue;
      const frame = await createImageBitmap(this.video);
      // A photo may have come meanwhile, which this frame would replace.
      if (this.stream === stream) await look(frame);
      else frame.close();
    }
  }
}
