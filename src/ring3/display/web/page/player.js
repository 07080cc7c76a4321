// An AudioWorklet: plays what arrives, in order.  Starts once START_S are there, so that jitter doesn't stutter;
// drops what is older than LATE_S, so that sound doesn't lag behind the picture for good.

const START_S = 0.06;
const LATE_S = 0.3;

class Player extends AudioWorkletProcessor {
    constructor() {
        super();
        this.chunks = [];
        this.frames = 0;            // in all chunks
        this.at = 0;                // frames of the first chunk that were played
        this.playing = false;
        this.port.onmessage = (event) => this.take(new Int16Array(event.data));
    }

    take(samples) {
        this.chunks.push(samples);
        this.frames += samples.length / 2;
        while (this.frames > LATE_S * sampleRate && this.chunks.length > 1) this.drop();
        if (this.frames >= START_S * sampleRate) this.playing = true;
    }

    drop() {
        this.frames -= this.chunks.shift().length / 2 - this.at;
        this.at = 0;
    }

    process(inputs, [[left, right]]) {
        for (let i = 0; this.playing && i < left.length; i += 1) {
            const [chunk] = this.chunks;
            if (!chunk) {
                this.playing = false;
                break;
            }
            left[i] = chunk[2 * this.at] / 32768;
            right[i] = chunk[2 * this.at + 1] / 32768;
            this.at += 1;
            this.frames -= 1;
            if (2 * this.at >= chunk.length) {
                this.chunks.shift();
                this.at = 0;
            }
        }
        return true;
    }
}

registerProcessor("player", Player);
