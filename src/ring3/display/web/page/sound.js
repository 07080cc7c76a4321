// The machine's sound: chunks of samples from a WebSocket to an AudioWorklet.

export async function openSound() {
    const context = new AudioContext({ latencyHint: "interactive" });
    await context.audioWorklet.addModule("/page/player.js");
    const player = new AudioWorkletNode(context, "player", { outputChannelCount: [2] });
    player.connect(context.destination);
    const socket = new WebSocket(`${location.origin.replace("http", "ws")}/socket/sound`);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => player.port.postMessage(event.data, [event.data]);
    await context.resume();
    return {
        close: () => {
            socket.close();
            context.close();
        },
    };
}
