"""One file per page: from what stages wrote to HTML."""
