//! Streams weights from their source into the artefact's layout, a panel at a time.

use hyc_ir::plan::{Layout, Weight};
