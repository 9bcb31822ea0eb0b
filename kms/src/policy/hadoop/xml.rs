//! Hadoop's configuration files: `<configuration>` of `<property>`, each with `<name>` and `<value>`
//! (`org.apache.hadoop.conf.Configuration`).

use roxmltree::{Document, Node};

use super::ImportError;

/// Names and values in the order of the file; of a name that is there twice, the later value counts.
pub(super) fn properties(file: &str, text: &str) -> Result<Vec<(String, String)>, ImportError> {
    let invalid = |line, reason: String| ImportError::Invalid {
        file: file.to_owned(),
        line,
        reason,
    };
    // Documents with a DTD are refused by default, so that no entity can be expanded.
    let document = Document::parse(text).map_err(|error| invalid(error.pos().row, error.to_string()))?;
    let refused = |node: Node<'_, '_>, reason: &str| {
        Err(invalid(document.text_pos_at(node.range().start).row, reason.to_owned()))
    };
    let root = document.root_element();
    if !root.has_tag_name("configuration") {
        return refused(
            root,
            "this is not a Hadoop configuration: its root is not <configuration>",
        );
    }
    let mut properties = Vec::new();
    for node in root.children().filter(Node::is_element) {
        if !node.has_tag_name("property") {
            return refused(
                node,
                "only <property> is understood; copy in what is included from elsewhere",
            );
        }
        let child = |tag| {
            node.children()
                .find(|child: &Node<'_, '_>| child.has_tag_name(tag))
                .map(content)
        };
        // Without both, Hadoop passes the property over.
        let (Some(name), Some(value)) = (child("name"), child("value")) else {
            continue;
        };
        if value.contains("${") {
            return refused(node, "variables (${…}) are not expanded; write the value itself");
        }
        properties.push((name.trim().to_owned(), value));
    }
    Ok(properties)
}

/// The text of an element, comments left out.
fn content(node: Node<'_, '_>) -> String {
    node.children()
        .filter_map(|child| child.text().filter(|_| child.is_text()))
        .collect()
}
