//! A small, bounded gzip reader (RFC 1952, 1951): one provider signs the body before it compresses
//! it. The signature covers the result, so the checksum is not looked at.

/// Largest inflated body, in bytes.
const INFLATED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The inflated body, or `None` when it is damaged or too large.
pub(in super::super) fn gunzip(gzip: &[u8]) -> Option<Vec<u8>> {
    let (&[0x1f, 0x8b, 8, flags, ..], mut rest) = gzip.split_first_chunk::<10>()? else {
        return None;
    };
    if flags & 4 != 0 {
        let (len, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*len))..)?;
    }
    for text in [8, 16] {
        if flags & text != 0 {
            rest = &rest[rest.iter().position(|&byte| byte == 0)? + 1..];
        }
    }
    if flags & 2 != 0 {
        rest = rest.get(2..)?;
    }
    inflate(&mut Bits {
        bytes: rest,
        held: 0,
        count: 0,
    })
}

struct Bits<'b> {
    bytes: &'b [u8],
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// The next `count` bits, at most 16.
    fn take(&mut self, count: u32) -> Option<usize> {
        while self.count < count {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            self.held |= u32::from(byte) << self.count;
            self.count += 8;
        }
        let taken = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Some(taken as usize)
    }
}

/// A canonical Huffman code: how many symbols have each length, and the symbols in order.
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0; 16];
        let mut symbols = Vec::with_capacity(lengths.len());
        for length in 1..16 {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, l)| **l == length) {
                symbols.push(symbol as u16);
                counts[usize::from(length)] += 1;
            }
        }
        Self { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Option<usize> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for &count in &self.counts[1..] {
            let count = usize::from(count);
            code |= bits.take(1)?;
            if code < first + count {
                return self
                    .symbols
                    .get(index + code.checked_sub(first)?)
                    .map(|&s| usize::from(s));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

fn inflate(bits: &mut Bits<'_>) -> Option<Vec<u8>> {
    let mut inflated = Vec::new();
    loop {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => stored(bits, &mut inflated)?,
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                compressed(
                    bits,
                    &Code::new(&lengths),
                    &Code::new(&[5; 30]),
                    &mut inflated,
                )?;
            }
            2 => {
                let (literals, distances) = codes(bits)?;
                compressed(bits, &literals, &distances, &mut inflated)?;
            }
            _ => return None,
        }
        if last {
            return Some(inflated);
        }
    }
}

fn stored(bits: &mut Bits<'_>, inflated: &mut Vec<u8>) -> Option<()> {
    (bits.held, bits.count) = (0, 0);
    let len = bits.take(16)?;
    let complement = bits.take(16)?;
    if len ^ complement != 0xffff || inflated.len() + len > INFLATED_BYTES_MAX {
        return None;
    }
    let (content, rest) = bits.bytes.split_at_checked(len)?;
    inflated.extend_from_slice(content);
    bits.bytes = rest;
    Some(())
}

/// The two codes of a dynamic block.
fn codes(bits: &mut Bits<'_>) -> Option<(Code, Code)> {
    const ORDER: [usize; 19] = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ];
    let literals = bits.take(5)? + 257;
    let distances = bits.take(5)? + 1;
    let mut lengths = [0; 19];
    for &symbol in &ORDER[..bits.take(4)? + 4] {
        lengths[symbol] = bits.take(3)? as u8;
    }
    let code = Code::new(&lengths);
    let mut lengths = Vec::with_capacity(literals + distances);
    while lengths.len() < literals + distances {
        let (length, repeat) = match code.read(bits)? {
            16 => (*lengths.last()?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        lengths.extend(std::iter::repeat_n(length, repeat));
    }
    let (literals, rest) = lengths.split_at_checked(literals)?;
    Some((Code::new(literals), Code::new(rest.get(..distances)?)))
}

fn compressed(
    bits: &mut Bits<'_>,
    literals: &Code,
    distances: &Code,
    inflated: &mut Vec<u8>,
) -> Option<()> {
    loop {
        if inflated.len() > INFLATED_BYTES_MAX {
            return None;
        }
        match literals.read(bits)? {
            literal @ 0..256 => inflated.push(literal as u8),
            256 => return Some(()),
            symbol => {
                let len = match symbol - 257 {
                    short @ 0..8 => short + 3,
                    28 => 258,
                    long @ 8..28 => {
                        let extra = (long - 4) / 4;
                        ((4 + long % 4) << extra) + 3 + bits.take(extra as u32)?
                    }
                    _ => return None,
                };
                let distance = match distances.read(bits)? {
                    near @ 0..4 => near + 1,
                    far @ 4..30 => {
                        let extra = (far - 2) / 2;
                        ((2 + far % 2) << extra) + 1 + bits.take(extra as u32)?
                    }
                    _ => return None,
                };
                let start = inflated.len().checked_sub(distance)?;
                for at in start..start + len {
                    let byte = *inflated.get(at)?;
                    inflated.push(byte);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `gzip -9n` of 200 times `hook`, and of 300 pseudo-random letters' worth of text.
    #[test]
    fn inflates_what_gzip_made() {
        let fixed =
            hex::decode("1f8b0800000000000203cbc8cfcfce18c5a3781463c50057105ad720030000").unwrap();
        assert_eq!(gunzip(&fixed).unwrap(), b"hook".repeat(200));
        let dynamic = hex::decode("1f8b08000000000002033dd5c1911c211004405f64c1403734c82839a090ef92623ae775c43deab8aacde5f78f5f3f7e3e7f7effff71c77d0f27ce7ba855ef61d77e0febae3e8c7c0f19f11e62cdf7306bbc87713b793c9d3c3bf866079fddc1753ab89e0edeb383577670ee0e8ed3c1f30a1e9d3ca2935707dfeae0733bf88c0eaee8e0bd3a785507e7e9e07c3a386607cfece4b1257770c7de39fdbe636b3f7abc7a3c7a2c3d6e3d2e3da61e3b798c4e8e0ebeebd1e3d5a3ed1edb4ddbe5d2a30b1fdb3db69bb6cbc74df578f468bb61bb587a4c3d76705edb0ddb85edf2ea51b21bebf1eb37f5d8b1fb58eeb1dcb45c5c3d1e3d961e2d373a39528fe10a1d5cd776c376d37679f4587ab4dd63bb69bb74e50ebec7768fedb82bee36778bbbe42eb90bee2677a3bee4fea947fd5257d46dea36758bbaa42ea89bd40dea0675d05dea0e75455d51b7a95bd42575415d5037a91bd44177a9bb8fedb82bee36778bbbe42eb90bee267783bb8f9de9b03bd815761bbb8dddc22eb10bec267613bb811d7517bb835d6157d86dec1676895ddcef8bc278d88dfcaeac48e33dc603afc0dbe02df01678095e8037c11be07dee6cc7dde1aeb8dbdc6dee1677c95d7037b99bdc8df93d4bfeb42f63ee0e77c5dde66e7197dc0577c1dde46e70f7b1fbdc79ee0e7945de266f91b7c84bf282bc49de20ef83673bf00e7805de066f83b7c04bf002bc09de046f80c7ddfd5e3bf00e7805de066f8197e0057801de8cef53f17ddcfc97c623ef9057e46df216798bbc242fc89be40df2c6f7e0198fbc435e91b7c9dbe42df292bc206fde2fd878e48177bff78ebc435e91b7c95be42579495e9037c91be47df0c8bbe81df40abd8dde426fa197e8057a13bd81def89e3ceba177d0ab7ff4fe024212c377690a0000").unwrap();
        let numbers: String = (0..300)
            .map(|n| format!("{{\"n\":{}}}", n * 7919 % 1000))
            .collect();
        assert_eq!(gunzip(&dynamic).unwrap(), numbers.as_bytes());
        for end in 0..dynamic.len() - 8 {
            assert!(gunzip(&dynamic[..end]).is_none(), "{end}");
        }
    }

    /// One stored block of 64 KiB after another.
    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0];
        for _ in 0..=INFLATED_BYTES_MAX / 0xffff {
            bomb.extend([0, 0xff, 0xff, 0, 0]);
            bomb.extend([0; 0xffff]);
        }
        bomb.extend([1, 0, 0, 0xff, 0xff]);
        assert_eq!(gunzip(&bomb), None);
    }
}
