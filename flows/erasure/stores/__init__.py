"""The stores of copies. Each can be searched, and its findings erased; nothing here knows of
batches and receipts."""
