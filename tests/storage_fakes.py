"""Playing the initiator of SCSI targets."""

from ring3.devices.storage.scsi import Task


class Adapter:
    """Takes and gives all at once, or in PIO's way, when told to `go_on`."""

    def __init__(self, target, *, pio=False):
        self.target = target
        self.pio = pio
        self.data = b""
        self.out = b""
        self.status = self.sense = None
        self.wants = 0

    def run(self, cdb, *, out=b"", **fields):
        """Status, and the data or the sense key with code."""
        self.data, self.out, self.status, self.sense = b"", out, None, None
        self.task = Task(bytes(cdb), **fields)
        self.target.execute(self.task, self)
        return self.answer()

    def answer(self):
        if self.sense:
            return self.status, (self.sense[2], self.sense[12] << 8 | self.sense[13])
        return self.status, self.data

    def go_on(self):
        data, self.out = self.out[: self.wants], self.out[self.wants :]
        self.target.resume(self.task, self, data)

    def data_in(self, task, data):
        self.data += data
        return not self.pio

    def data_out(self, task, length):
        self.wants = length
        if self.pio:
            return None
        data, self.out = self.out[:length], self.out[length:]
        return data

    def complete(self, task, status, sense):
        assert self.status is None, "a task ends once"
        self.status, self.sense = status, sense
