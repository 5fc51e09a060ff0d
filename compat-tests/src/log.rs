//! The k8s-file log, taken apart as its readers do it.

/// One record of a k8s-file log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub stamp: String,
    pub stream: String,
    pub tag: String,
    /// Without the newline that ends the record.
    pub content: Vec<u8>,
}

impl LogLine {
    /// Takes a whole log apart.
    ///
    /// # Panics
    /// When a line is not `STAMP STREAM TAG CONTENT` with a stamp of the right length, or the last one is not complete.
    #[must_use]
    pub fn parse_all(bytes: &[u8]) -> Vec<Self> {
        let Some(whole) = bytes.strip_suffix(b"\n") else {
            assert!(bytes.is_empty(), "the log ends in the middle of a record");
            return Vec::new();
        };
        whole.split(|byte| *byte == b'\n').map(Self::parse).collect()
    }

    /// The whole records of a log that is being written.
    #[must_use]
    pub fn parse_whole(bytes: &[u8]) -> Vec<Self> {
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        Self::parse_all(&bytes[..end])
    }

    fn parse(line: &[u8]) -> Self {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let mut text = || {
            let field = fields.next().unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(line)));
            String::from_utf8(field.to_vec()).expect("text")
        };
        let (stamp, stream, tag) = (text(), text(), text());
        let content = fields.next().unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(line)));
        let stamped =
            stamp.len() == 35 && stamp.is_ascii() && stamp.starts_with(|c: char| c.is_ascii_digit());
        assert!(stamped, "not a time stamp: {stamp:?}");
        assert!(stream == "stdout" || stream == "stderr", "stream {stream}");
        assert!(tag == "F" || tag == "P", "tag {tag}");
        Self { stamp, stream, tag, content: content.to_vec() }
    }

    /// The content as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

/// The bytes that the container wrote to `stream`: contents joined over `P`, with newlines after `F`.
#[must_use]
pub fn joined(lines: &[LogLine], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.iter().filter(|line| line.stream == stream) {
        bytes.extend_from_slice(&line.content);
        if line.tag == "F" {
            bytes.push(b'\n');
        }
    }
    bytes
}
