// An AudioWorklet: plays the machine's streams, each at its own rate, mixed.
//
// A stream starts once START_S of it are there, so that jitter doesn't stutter; what is older than LATE_S is
// dropped, so that sound doesn't lag behind the picture for good.

const START_S = 0.06;
const LATE_S = 0.3;
const HEAD_BYTES = 12;                  // stream and rate (32 bits each), channels, bytes of a sample (16 each)

// Samples between -1 and 1: of one byte they are unsigned, of two signed.
function samples(data, bytes) {
    if (bytes === 1) return Float32Array.from(new Uint8Array(data, HEAD_BYTES), (value) => (value - 128) / 128);
    return Float32Array.from(new Int16Array(data, HEAD_BYTES), (value) => value / 32768);
}

class Stream {
    constructor(rate, channels) {
        this.rate = rate;
        this.channels = channels;
        this.chunks = [];
        this.frames = 0;                // in all chunks
        this.at = 0;                    // where in the first chunk the next frame is; with a fraction
        this.playing = false;
    }

    take(chunk) {
        this.chunks.push(chunk);
        this.frames += chunk.length / this.channels;
        while (this.chunks.length > 1 && this.frames - this.at > LATE_S * this.rate) this.next();
        if (this.frames - this.at >= START_S * this.rate) this.playing = true;
    }

    next() {
        const frames = this.chunks.shift().length / this.channels;
        this.frames -= frames;
        this.at = Math.max(0, this.at - frames);
    }

    mix(left, right) {
        const step = this.rate / sampleRate;
        for (let i = 0; this.playing && i < left.length; i += 1) {
            while (this.chunks.length && Math.floor(this.at) * this.channels >= this.chunks[0].length) this.next();
            if (!this.chunks.length) {
                this.playing = false;
                return;
            }
            const [chunk] = this.chunks;
            const frame = Math.floor(this.at) * this.channels;
            left[i] += chunk[frame];
            right[i] += chunk[frame + this.channels - 1];
            this.at += step;
        }
    }
}

class Player extends AudioWorkletProcessor {
    constructor() {
        super();
        this.streams = new Map();
        this.port.onmessage = (event) => this.take(event.data);
    }

    take(data) {
        const head = new DataView(data);
        const number = head.getUint32(0, true);
        if (data.byteLength <= HEAD_BYTES) {        // the stream has ended
            this.streams.delete(number);
            return;
        }
        if (!this.streams.has(number))
            this.streams.set(number, new Stream(head.getUint32(4, true), head.getUint16(8, true)));
        this.streams.get(number).take(samples(data, head.getUint16(10, true)));
    }

    process(inputs, [[left, right]]) {
        for (const stream of this.streams.values()) stream.mix(left, right);
        return true;
    }
}

registerProcessor("player", Player);
