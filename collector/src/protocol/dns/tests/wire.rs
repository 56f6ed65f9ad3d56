//! How tests write messages.

/// A message that is put together.
pub(crate) struct Build {
    bytes: Vec<u8>,
    answers: u16,
    additional: u16,
}

impl Build {
    pub(crate) fn header(txid: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [[txid, flags].as_slice(), &counts].concat() {
            bytes.extend(word.to_be_bytes());
        }
        bytes
    }

    fn new(txid: u16, flags: u16, name: &str, kind: u16) -> Self {
        let mut bytes = Self::header(txid, flags, [1, 0, 0, 0]);
        put_name(name, &mut bytes);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        Self { bytes, answers: 0, additional: 0 }
    }

    pub(crate) fn response(txid: u16, name: &str, kind: u16) -> Self {
        Self::new(txid, 0x8180, name, kind)
    }

    pub(crate) fn rcode(mut self, code: u8) -> Self {
        self.bytes[3] |= code;
        self
    }

    /// An answer about the question's name, which it points to.
    pub(crate) fn other(mut self, kind: u16, data: &[u8]) -> Self {
        self.answers += 1;
        self.bytes.extend([0xc0, 12]);
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend([0, 1, 0, 0, 0, 60]);
        self.bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        self.bytes.extend(data);
        self
    }

    pub(crate) fn addr(self, addr: [u8; 4]) -> Self {
        self.other(1, &addr)
    }

    pub(crate) fn addr6(self, high: [u8; 15], low: u8) -> Self {
        self.other(28, &[high.as_slice(), &[low]].concat())
    }

    pub(crate) fn cname(self, name: &str) -> Self {
        let mut data = Vec::new();
        put_name(name, &mut data);
        self.other(5, &data)
    }

    /// The record with the upper bits of the response code.
    pub(crate) fn opt(mut self, upper: u8) -> Self {
        self.additional += 1;
        self.bytes.extend([0, 0, 41, 4, 0xd0, upper, 0, 0, 0, 0, 0]);
        self
    }

    pub(crate) fn done(mut self) -> Vec<u8> {
        self.bytes[6..8].copy_from_slice(&self.answers.to_be_bytes());
        self.bytes[10..12].copy_from_slice(&self.additional.to_be_bytes());
        self.bytes
    }
}

fn put_name(name: &str, bytes: &mut Vec<u8>) {
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
}

pub(crate) fn query(txid: u16, name: &str, kind: u16) -> Vec<u8> {
    Build::new(txid, 0x0100, name, kind).done()
}

/// With its length before it, as over TCP.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [length.as_slice(), message].concat()
}
