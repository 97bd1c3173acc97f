//! Bars of text, an eighth of a column fine.

/// A bar of `width` columns at most, as long as `share` (0..=1) of it; what is above nought is never invisible.
pub(super) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let most = 8 * width;
    let eighths = (share.clamp(0.0, 1.0) * most as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// A track of `width` columns, filled by `count` of `of`; what is above nought is never invisible.
pub(super) fn track(count: usize, of: usize, width: usize) -> String {
    let filled = (count * width).div_ceil(of.max(1)).min(width);
    "█".repeat(filled) + &"░".repeat(width - filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_are_filled_by_their_share() {
        assert_eq!([0, 1, 2, 3].map(|count| track(count, 3, 4)), ["░░░░", "██░░", "███░", "████"]);
        assert_eq!(track(0, 0, 2), "░░");
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let cases =
            [(0.0, ""), (1e-9, "▏"), (0.25, "█"), (0.5, "██"), (0.53, "██▏"), (1.0, "████"), (7.0, "████")];
        for (share, expected) in cases {
            assert_eq!(bar(share, 4), expected, "{share}");
        }
    }
}
