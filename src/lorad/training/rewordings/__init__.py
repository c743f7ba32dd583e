"""The shipped grammar of rewordings: one module a language, with its sentences in a YAML file of the same name.

What lives here: rules that change a question's form. What never does: choosing among wordings, other folders.
"""
