-- Records of erasures belong to no node, so that deleting a node does not delete them; which node it was is in their
-- document. They are listed by it.

CREATE INDEX records_node_of_document ON records (kind, json_extract(document, '$.node_uuid'));
