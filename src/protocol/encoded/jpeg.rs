//! JPEG: its header, a check that every scan is whole, and its decoding.
//!
//! Where a scan ends early decoders go on without a word: one fills with grey, another with whatever its code tables make of
//! zeros. A caller could so show the model a picture and us another each time. Hence the check: every scan is read code by code,
//! without computing a pixel, and must have all its blocks. What is checked besides is that decoders agree on the file's meaning:
//! the order of progressive scans, that none is missing, and the colours.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::bits::{Bits, Codes, Torn};
use super::{Format, Header};
use crate::judgment::MAX_SIDE;

/// The most scans of one picture. libjpeg and its kin write 10 for colour, the optimisers of mozjpeg up to some 30; each costs
/// a pass over all blocks, however few bytes it takes.
const SCANS: usize = 64;

/// A JPEG's frame: what stands before its first scan.
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
    /// The largest sampling factors.
    across: usize,
    down: usize,
}

/// One colour.
struct Component {
    id: u8,
    /// Blocks in one unit of an interleaved scan.
    across: usize,
    down: usize,
    /// Blocks in one row of interleaved units.
    stride: usize,
    /// The lowest bit that was sent of each coefficient; none before its first scan.
    sent: [Option<u8>; 64],
    /// Which coefficients of each block are not zero; progressive alone needs to know.
    nonzero: Vec<u64>,
}

/// One scan, as its header describes it.
struct Scan {
    /// Indexes of components, with their tables for DC and AC.
    components: Vec<(usize, usize, usize)>,
    first: usize,
    last: usize,
    high: u8,
    low: u8,
}

/// What the header segments say.
pub(super) fn header(bytes: &[u8]) -> Result<Header<'_>, Torn> {
    let mut segments = Segments { bytes, at: 2 };
    let mut frame = None;
    loop {
        match segments.next()? {
            (marker @ 0xc0..=0xc2, segment) if frame.is_none() => frame = Some(Frame::of(marker, segment)?),
            (0xda, segment) => {
                let frame = frame.ok_or("a scan without a frame")?;
                let scanned = usize::from(*segment.first().ok_or("a scan without a header")?);
                return Ok(Header {
                    format: Format::Jpeg,
                    width: frame.width as u32,
                    height: frame.height as u32,
                    file: bytes,
                    decode_bytes: frame.decode_bytes(frame.progressive || scanned < frame.components.len()),
                    lossy: true,
                    alpha: false,
                });
            }
            (0xd9, _) => return Err("no scan"),
            _ => {}
        }
    }
}

/// The pixels, once every scan is found whole.
pub(super) fn rgb(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let end = whole(bytes)?;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .jpeg_set_max_scans(SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&bytes[..end]), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let is_grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    if is_grey {
        decoder.set_options(options.jpeg_set_out_colorspace(ColorSpace::Luma));
    }
    let levels = decoder.decode().map_err(|error| error.to_string())?;
    Ok(if is_grey { levels.into_iter().flat_map(|level| [level; 3]).collect() } else { levels })
}

/// The segments of a file, one after the other.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    /// The next marker and its segment without the length; a marker that stands alone has none.
    fn next(&mut self) -> Result<(u8, &'a [u8]), Torn> {
        const ENDS: Torn = "the file ends within its headers";
        if *self.bytes.get(self.at).ok_or(ENDS)? != 0xff {
            return Err("bytes between two segments");
        }
        while *self.bytes.get(self.at).ok_or(ENDS)? == 0xff {
            self.at += 1;
        }
        let marker = self.bytes[self.at];
        self.at += 1;
        if marker == 0xd9 {
            return Ok((marker, &[]));
        }
        if matches!(marker, 0 | 1 | 0xd0..=0xd8) {
            return Err("a marker out of place");
        }
        let length = self.bytes.get(self.at..self.at + 2).ok_or(ENDS)?;
        let end = self.at + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let segment = self.bytes.get(self.at + 2..end.max(self.at + 2)).ok_or(ENDS)?;
        self.at = end.max(self.at + 2);
        Ok((marker, segment))
    }
}

impl Frame {
    fn of(marker: u8, segment: &[u8]) -> Result<Self, Torn> {
        let &[8, high, low, wide, narrow, count, ref rest @ ..] = segment else {
            return Err("a frame of other than 8 bits");
        };
        if !matches!(count, 1 | 3 | 4) || rest.len() != 3 * usize::from(count) {
            return Err("a frame of other than 1, 3 or 4 components");
        }
        let (height, width) = (u16::from_be_bytes([high, low]), u16::from_be_bytes([wide, narrow]));
        let components: Vec<Component> = rest
            .chunks_exact(3)
            .map(|of| Component {
                id: of[0],
                across: usize::from(of[1] >> 4),
                down: usize::from(of[1] & 15),
                stride: 0,
                sent: [None; 64],
                nonzero: Vec::new(),
            })
            .collect();
        let across = components.iter().map(|component| component.across).max().unwrap_or(1);
        let down = components.iter().map(|component| component.down).max().unwrap_or(1);
        let fits = |of: &Component| {
            (1..=4).contains(&of.across)
                && (1..=4).contains(&of.down)
                && across.is_multiple_of(of.across)
                && down.is_multiple_of(of.down)
        };
        if !components.iter().all(fits) {
            return Err("sampling factors that are no fractions of each other");
        }
        let mut frame = Self {
            width: usize::from(width),
            height: usize::from(height),
            progressive: marker == 0xc2,
            components,
            across,
            down,
        };
        let (units, _) = frame.units();
        for component in &mut frame.components {
            component.stride = units * component.across;
        }
        Ok(frame)
    }

    /// Units of an interleaved scan, in a row and rows of them.
    fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.across), self.height.div_ceil(8 * self.down))
    }

    fn decode_bytes(&self, buffered: bool) -> usize {
        let (across, down) = self.units();
        let blocks: usize = self.components.iter().map(|of| across * of.across * down * of.down).sum();
        let coefficients = if buffered { blocks * 64 * 2 } else { 0 };
        let pixels = self.width * self.height;
        // Rows of units: coefficients, samples before and after they are scaled up.
        let rows = across * self.across * 8 * self.down * 8 * self.components.len() * 8;
        coefficients + rows + pixels * if self.components.len() == 1 { 4 } else { 3 }
    }

    /// What must be alike in the eyes of every decoder; `adobe` is the colour transform that a segment names.
    fn colours(&self, jfif: bool, adobe: Option<u8>) -> Result<(), Torn> {
        let ids: Vec<u8> = self.components.iter().map(|component| component.id).collect();
        match (&ids[..], jfif, adobe) {
            ([_], ..) | ([_, _, _, _], _, Some(0 | 2)) => Ok(()),
            // Inverted in the eyes of one, not in those of another.
            ([_, _, _, _], ..) => Err("four components without a word on their colours"),
            (b"RGB", false, None | Some(0)) => Ok(()),
            (b"RGB", ..) | (_, true, Some(0)) => Err("two meanings of its colours"),
            _ => Ok(()),
        }
    }
}

/// Where the picture ends, all of its scans found whole.
fn whole(bytes: &[u8]) -> Result<usize, Torn> {
    let mut segments = Segments { bytes, at: 2 };
    let mut frame: Option<Frame> = None;
    let (mut dc, mut ac): ([Option<Codes>; 4], [Option<Codes>; 4]) = Default::default();
    let (mut interval, mut scans) = (0, 0);
    let (mut jfif, mut adobe) = (false, None);
    loop {
        let (marker, segment) = segments.next()?;
        match marker {
            0xc0..=0xc2 if frame.is_some() => return Err("two frames"),
            0xc0..=0xc2 => frame = Some(Frame::of(marker, segment)?),
            0xc4 => tables(segment, &mut dc, &mut ac)?,
            0xc3 | 0xc5..=0xcf => return Err("a lossless, hierarchical or arithmetic frame"),
            0xdc => return Err("a height that comes after the scan"),
            0xdd => {
                let &[high, low] = segment else { return Err("a restart interval of another length") };
                interval = usize::from(u16::from_be_bytes([high, low]));
            }
            0xe0 => jfif |= segment.starts_with(b"JFIF\0"),
            0xee if segment.starts_with(b"Adobe") => adobe = segment.get(11).copied(),
            0xda => {
                let frame = frame.as_mut().ok_or("a scan without a frame")?;
                if scans == 0 {
                    frame.colours(jfif, adobe)?;
                }
                scans += 1;
                if scans > SCANS {
                    return Err("too many scans");
                }
                let scan = Scan::of(segment, frame)?;
                segments.at = scan.read(bytes, segments.at, frame, (&dc, &ac), interval)?;
            }
            0xd9 => {
                let frame = frame.ok_or("no frame")?;
                let is_sent = |of: &Component| of.sent.iter().all(|&bit| bit == Some(0));
                return if frame.components.iter().all(is_sent) {
                    Ok(segments.at)
                } else {
                    Err("the last scans are missing")
                };
            }
            _ => {}
        }
    }
}

fn tables(mut segment: &[u8], dc: &mut [Option<Codes>; 4], ac: &mut [Option<Codes>; 4]) -> Result<(), Torn> {
    while let Some((&kind, rest)) = segment.split_first() {
        let Some((counts, rest)) = rest.split_first_chunk::<16>() else { return Err("half a code table") };
        let length = counts.iter().map(|&count| usize::from(count)).sum();
        let Some((symbols, rest)) = rest.split_at_checked(length) else { return Err("half a code table") };
        let tables = if kind >> 4 == 0 { &mut *dc } else { &mut *ac };
        let table = tables.get_mut(usize::from(kind & 15)).ok_or("a fifth code table")?;
        *table = Some(Codes::new(counts, symbols)?);
        segment = rest;
    }
    Ok(())
}

impl Scan {
    fn of(segment: &[u8], frame: &mut Frame) -> Result<Self, Torn> {
        let (&count, rest) = segment.split_first().ok_or("a scan without a header")?;
        let Some((components, &[first, last, bits])) = rest.split_at_checked(2 * usize::from(count)) else {
            return Err("a scan whose header has another length");
        };
        let components: Option<Vec<_>> = components
            .chunks_exact(2)
            .map(|of| {
                let at = frame.components.iter().position(|component| component.id == of[0])?;
                Some((at, usize::from(of[1] >> 4), usize::from(of[1] & 15)))
            })
            .collect();
        let components = components.filter(|of| !of.is_empty()).ok_or("a scan of an unknown component")?;
        let scan = Self {
            components,
            first: usize::from(first),
            last: usize::from(last),
            high: bits >> 4,
            low: bits & 15,
        };
        scan.follows(frame)?;
        Ok(scan)
    }

    /// Each coefficient comes first from its highest bits, once, and then bit by bit; a component's AC after its DC.
    fn follows(&self, frame: &mut Frame) -> Result<(), Torn> {
        const WRONG: Torn = "a scan out of order";
        let is_progressive = frame.progressive;
        // Of several components but not all, decoders arrange the blocks differently.
        let count = self.components.len();
        let in_bounds = (count == 1 || count == frame.components.len())
            && if is_progressive {
                self.low <= 13
                    && if self.first == 0 {
                        self.last == 0
                    } else {
                        self.last >= self.first && self.last < 64
                    }
                    && (self.first == 0 || count == 1)
            } else {
                (self.first, self.last, self.high, self.low) == (0, 63, 0, 0)
            };
        if !in_bounds {
            return Err(WRONG);
        }
        for &(at, ..) in &self.components {
            let component = &mut frame.components[at];
            if self.first > 0 && component.sent[0].is_none() {
                return Err(WRONG);
            }
            for sent in &mut component.sent[self.first..=self.last] {
                let is_next = match *sent {
                    None => self.high == 0,
                    Some(bit) => is_progressive && self.high == bit && bit == self.low + 1,
                };
                if !is_next {
                    return Err(WRONG);
                }
                *sent = Some(self.low);
            }
        }
        Ok(())
    }

    /// Reads all blocks from `at` on; gives where the next segment begins.
    fn read(
        &self,
        bytes: &[u8],
        at: usize,
        frame: &mut Frame,
        (dc, ac): (&[Option<Codes>; 4], &[Option<Codes>; 4]),
        interval: usize,
    ) -> Result<usize, Torn> {
        let (units_across, units_down) = frame.units();
        let (width, height, across, down) = (frame.width, frame.height, frame.across, frame.down);
        let alone = self.components.len() == 1;
        let mut parts = Vec::new();
        for &(at, dc_at, ac_at) in &self.components {
            parts.push((at, dc.get(dc_at).and_then(Option::as_ref), ac.get(ac_at).and_then(Option::as_ref)));
            let component = &mut frame.components[at];
            if frame.progressive && component.nonzero.is_empty() {
                component.nonzero = vec![0; component.stride * units_down * component.down];
            }
        }
        // A component alone has only the blocks that hold pixels, one in each unit.
        let (columns, rows) = if alone {
            let of = &frame.components[self.components[0].0];
            ((width * of.across).div_ceil(8 * across), (height * of.down).div_ceil(8 * down))
        } else {
            (units_across, units_down)
        };
        let mut bits = Bits::new(bytes, at);
        let mut run = 0;
        for unit in 0..columns * rows {
            if interval > 0 && unit > 0 && unit.is_multiple_of(interval) {
                let at = bits.marker()?;
                if bytes[at + 1] != 0xd0 + ((unit / interval - 1) % 8) as u8 {
                    return Err("a restart out of order");
                }
                bits = Bits::new(bytes, at + 2);
                run = 0;
            }
            for &(at, dc, ac) in &parts {
                let component = &mut frame.components[at];
                let (wide, high) = if alone { (1, 1) } else { (component.across, component.down) };
                for place in 0..wide * high {
                    let (x, y) = (unit % columns * wide + place % wide, unit / columns * high + place / wide);
                    let mut unkept = 0;
                    let kept = component.nonzero.get_mut(y * component.stride + x).unwrap_or(&mut unkept);
                    self.block(&mut bits, (dc, ac), kept, &mut run)?;
                }
            }
        }
        let at = bits.marker()?;
        if matches!(bytes[at + 1], 0xd0..=0xd7) {
            return Err("a restart after the last block");
        }
        Ok(at)
    }

    /// One block; `run` counts the blocks ahead that have no more coefficients in this band.
    fn block(
        &self,
        bits: &mut Bits<'_>,
        (dc, ac): (Option<&Codes>, Option<&Codes>),
        nonzero: &mut u64,
        run: &mut u32,
    ) -> Result<(), Torn> {
        const NO_TABLE: Torn = "a scan without its code tables";
        if self.first == 0 {
            if self.high == 0 {
                let length = bits.symbol(dc.ok_or(NO_TABLE)?)?;
                // A difference of 8-bit samples; libjpeg's tables have no more either.
                if length > 11 {
                    return Err("a coefficient out of range");
                }
                bits.take(u32::from(length))?;
            } else {
                bits.take(1)?;
            }
            if self.last == 0 {
                return Ok(());
            }
        }
        let ac = ac.ok_or(NO_TABLE)?;
        let mut at = self.first.max(1);
        if *run == 0 {
            while at <= self.last {
                let symbol = bits.symbol(ac)?;
                let (mut zeros, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
                if length == 0 && zeros < 15 {
                    if self.last == 63 && self.first == 0 && zeros > 0 {
                        return Err("a run of blocks without progression");
                    }
                    *run = (1 << zeros) | bits.take(zeros as u32)?;
                    break;
                }
                if self.high > 0 {
                    if length > 1 {
                        return Err("a coefficient out of range");
                    }
                    bits.take(length)?;
                    while at <= self.last {
                        if *nonzero & (1 << at) != 0 {
                            bits.take(1)?;
                        } else if zeros == 0 {
                            break;
                        } else {
                            zeros -= 1;
                        }
                        at += 1;
                    }
                } else {
                    at += zeros;
                    bits.take(length)?;
                }
                if length > 0 {
                    if at > self.last {
                        return Err("a coefficient out of range");
                    }
                    *nonzero |= 1 << at;
                }
                at += 1;
            }
        }
        if *run > 0 {
            *run -= 1;
            if self.high > 0 {
                for at in at..=self.last {
                    if *nonzero & (1 << at) != 0 {
                        bits.take(1)?;
                    }
                }
            }
        }
        Ok(())
    }
}
