//! The bits of a JPEG's scans, and its code tables.

/// Why a scan is not whole.
pub(super) type Torn = &'static str;

/// Bits between two markers, first bit first, the stuffed zeros taken out.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    hold: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// From `at` in `bytes` on.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, hold: 0, count: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xff {
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.hold = self.hold << 8 | u64::from(byte);
            self.count += 8;
        }
    }

    /// The next `length` bits, at most 16.
    pub(super) fn take(&mut self, length: u32) -> Result<u32, Torn> {
        if self.count < length {
            self.fill();
        }
        self.count = self.count.checked_sub(length).ok_or("a scan ends before its last block")?;
        Ok((self.hold >> self.count) as u32 & ((1 << length) - 1))
    }

    /// The next symbol of `table`.
    pub(super) fn symbol(&mut self, table: &Codes) -> Result<u8, Torn> {
        if self.count < 16 {
            self.fill();
        }
        // Beyond the end stand zeros, and a code that needs one of them is found out by its length.
        let ahead =
            if self.count < 16 { self.hold << (16 - self.count) } else { self.hold >> (self.count - 16) };
        let (symbol, length) = table.symbol(ahead as u16).ok_or("a code that no table has")?;
        self.take(u32::from(length))?;
        Ok(symbol)
    }

    /// Where the next marker begins: padding and whatever else stands before it are skipped.
    pub(super) fn marker(mut self) -> Result<usize, Torn> {
        // What was taken ahead is no marker.
        while let Some(&byte) = self.bytes.get(self.at) {
            if byte == 0xff && !matches!(self.bytes.get(self.at + 1), Some(0 | 0xff) | None) {
                return Ok(self.at);
            }
            self.at += 1;
        }
        Err("the file ends within a scan")
    }
}

/// One table of codes of up to 16 bits.
#[derive(Clone)]
pub(super) struct Codes {
    /// Symbol and length by the first eight bits; length 0 where the code is longer.
    short: [(u8, u8); 256],
    /// For each length from 1: the first 16-bit word above the codes of that length, and where symbols of the length begin,
    /// less the code of the first.
    ends: [u32; 17],
    shifts: [i32; 17],
    symbols: Vec<u8>,
}

impl Codes {
    /// From how many codes there are of each length, 1 to 16, and their symbols.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, Torn> {
        let mut codes =
            Self { short: [(0, 0); 256], ends: [0; 17], shifts: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16usize {
            let count = u32::from(counts[length - 1]);
            codes.shifts[length] = index as i32 - code as i32;
            for of_length in 0..count {
                let first = ((code + of_length) << (16 - length)) >> 8;
                let symbol =
                    *symbols.get(index + of_length as usize).ok_or("a code table without its symbols")?;
                if length <= 8 {
                    let same = 1 << (8 - length);
                    let slots = codes.short.get_mut(first as usize..first as usize + same);
                    slots.ok_or("a code table of too many codes")?.fill((symbol, length as u8));
                }
            }
            index += count as usize;
            code += count;
            if code > 1 << length {
                return Err("a code table of too many codes");
            }
            codes.ends[length] = code << (16 - length);
            code <<= 1;
        }
        Ok(codes)
    }

    /// The symbol that `word` begins with, and its code's length.
    fn symbol(&self, word: u16) -> Option<(u8, u8)> {
        let (symbol, length) = self.short[usize::from(word >> 8)];
        if length > 0 {
            return Some((symbol, length));
        }
        let length = (9..=16).find(|&length| u32::from(word) < self.ends[length])?;
        let index = i32::from(word) >> (16 - length);
        let symbol = self.symbols.get(usize::try_from(index + self.shifts[length]).ok()?)?;
        Some((*symbol, length as u8))
    }
}
